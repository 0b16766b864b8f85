"""Artifacts pushed to and pulled from a folder and an S3 server: whole, checked, or not at all."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kit.artifacts import change_byte
from kit.command import assert_one_line, tuneport
from kit.disks import disk_of
from kit.storage import s3_server

from tuneport.errors import ArtifactError, SignatureError, TuneportError
from tuneport.runtime.predictor import Predictor
from tuneport.schema.artifact import MANIFEST
from tuneport.schema.loading import load_manifest
from tuneport.signing import SIGNATURE, make_keys, sign
from tuneport.storage.artifacts import pull, push
from tuneport.storage.remote import Remote, open_remote


@pytest.fixture(params=["folder", "file://", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Where artifacts are pushed to."""
    if request.param == "s3":
        with s3_server(monkeypatch) as bucket:
            yield f"{bucket}/artifacts"
    else:
        yield f"{'file://' if request.param == 'file://' else ''}{tmp_path / 'store'}"


def names_at(url: str) -> set[str]:
    return open_remote(url).names()


def names_of(folder: Path) -> set[str]:
    return {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}


def write_at(url: str, content: bytes) -> None:
    remote = open_remote(url)
    remote.files.pipe_file(remote.path, content)


def test_what_was_pushed_is_pulled_again(place: str, artifact: Path, tmp_path: Path) -> None:
    secret = tmp_path / "key"
    public = make_keys(secret).read_text()
    sign(artifact, secret)
    url = f"{place}/news"
    assert push(artifact, url) == load_manifest(artifact)
    assert names_at(url) == names_of(artifact)
    manifest, signature = pull(url, tmp_path / "pulled", public_key=public, is_required=True)
    assert (manifest, signature.state) == (load_manifest(artifact), "valid")
    assert names_of(tmp_path / "pulled") == names_of(artifact)
    assert Predictor(tmp_path / "pulled", "fp32").predict(["bank"]) == Predictor(artifact, "fp32").predict(["bank"])


def test_what_is_there_is_replaced_only_if_asked(place: str, artifact: Path, tmp_path: Path) -> None:
    url = f"{place}/news"
    make_keys(tmp_path / "key")
    sign(artifact, tmp_path / "key")
    push(artifact, url)
    (artifact / SIGNATURE).unlink()
    with pytest.raises(TuneportError, match=r"choose another (folder|URL), or pass --overwrite"):
        push(artifact, url)
    assert SIGNATURE in names_at(url)
    push(artifact, url, overwrite=True)
    assert names_at(url) == names_of(artifact)


def test_a_place_of_something_else_is_left_alone(place: str, artifact: Path) -> None:
    url = f"{place}/thesis"
    if folder := open_remote(url).local:
        folder.mkdir(parents=True)
    write_at(f"{url}/thesis.txt", b"precious")
    with pytest.raises(TuneportError, match=r"holds something else \(thesis.txt\)|holds no manifest|exists"):
        push(artifact, url, overwrite=True)
    assert names_at(url) == {"thesis.txt"}


def test_a_push_that_fails_leaves_nothing(place: str, artifact: Path) -> None:
    url = f"{place}/news"

    def fail_at(owner: Any, name: str, number: int, error: BaseException) -> pytest.MonkeyPatch:
        original, calls = getattr(owner, name), []

        def call(*arguments: Any) -> Any:
            calls.append(1)
            if len(calls) == number:
                raise error
            return original(*arguments)

        patch = pytest.MonkeyPatch()
        patch.setattr(owner, name, call)
        return patch

    owner, name = (Remote, "upload") if place.startswith("s3") else (shutil, "copyfile")
    for error in (TuneportError("no", "network"), KeyboardInterrupt()):
        patch = fail_at(owner, name, 4, error)
        with pytest.raises(type(error)):
            push(artifact, url)
        patch.undo()
        assert names_at(url) == set()


def test_a_killed_push_is_no_artifact_and_is_continued(place: str, artifact: Path, tmp_path: Path) -> None:
    if not place.startswith("s3"):
        pytest.skip("a folder is renamed at the end")
    url = f"{place}/news"
    write_at(f"{url}/golden.jsonl", b"half")  # the manifest would come last
    with pytest.raises(TuneportError, match=r"holds no artifact: there is no manifest\.json"):
        pull(url, tmp_path / "pulled")
    push(artifact, url)
    pull(url, tmp_path / "pulled")


@pytest.mark.parametrize("damage", ["flipped", "cut", "missing", "manifest"])
def test_damage_in_the_store_is_found_and_nothing_is_written(
    place: str, artifact: Path, tmp_path: Path, damage: str
) -> None:
    url = f"{place}/news"
    push(artifact, url)
    name = MANIFEST if damage == "manifest" else "onnx/fp32/model.onnx"
    content = bytearray((artifact / name).read_bytes())
    content[len(content) // 2] ^= 1
    if damage == "missing":
        place_of_file = open_remote(f"{url}/{name}")
        place_of_file.files.rm_file(place_of_file.path)
    else:
        write_at(f"{url}/{name}", bytes(content[: len(content) // 2] if damage == "cut" else content))
    with pytest.raises(TuneportError) as refused:
        pull(url, tmp_path / "pulled")
    assert url in str(refused.value)
    assert "partial" not in str(refused.value)
    assert not (tmp_path / "pulled").exists()
    assert not list(tmp_path.glob(".pulled*"))


def test_a_signature_is_checked_before_any_file_is_fetched(
    place: str, artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"{place}/news"
    push(artifact, url)
    public = make_keys(tmp_path / "key").read_text()
    fetched: list[str] = []
    download = Remote.download
    monkeypatch.setattr(Remote, "download", lambda self, name, file: (fetched.append(name), download(self, name, file)))
    with pytest.raises(SignatureError, match=f"^{url} is not signed"):
        pull(url, tmp_path / "pulled", public_key=public, is_required=True)
    assert [name.rpartition("/")[2] for name in fetched] == [MANIFEST]
    assert not (tmp_path / "pulled").exists()


def test_a_damaged_artifact_is_not_pushed(place: str, artifact: Path) -> None:
    change_byte(artifact / "onnx/fp32/model.onnx")
    with pytest.raises(ArtifactError):
        push(artifact, f"{place}/news")
    assert names_at(f"{place}/news") == set()


def test_a_manifest_cannot_write_outside_of_the_folder(artifact: Path, tmp_path: Path) -> None:
    content = json.loads((artifact / MANIFEST).read_text())
    content["files"][0]["path"] = "../escaped"
    (artifact / MANIFEST).write_text(json.dumps(content))
    with pytest.raises(ArtifactError):
        pull(str(artifact), tmp_path / "pulled")
    assert not (tmp_path / "escaped").exists()


def test_a_full_disk_is_one_line(artifact: Path, tmp_path: Path) -> None:
    with disk_of(64, tmp_path) as disk:
        for command in (("push", artifact, disk / "news"), ("pull", artifact, "--out", disk / "news")):
            answer = tuneport(*command)
            assert answer.code == 1
            assert_one_line(answer.err, "no space left")
            assert not list(disk.iterdir())


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("nowhere://x", "cannot be opened"),
        ("s3://bucket/x", "s3://"),
        ("/nowhere/at/all", "no manifest.json"),
        ("http://127.0.0.1:9/x", "no manifest.json"),
    ],
)
def test_a_place_that_cannot_be_used_is_one_line(
    url: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    answer = tuneport("pull", url, "--out", tmp_path / "out")
    assert answer.code == 1
    assert_one_line(answer.err, words)


def test_the_commands(artifact: Path, tmp_path: Path) -> None:
    assert tuneport("push", artifact, tmp_path / "store").out.startswith("pushed tiny ")
    answer = tuneport("pull", tmp_path / "store", "--out", tmp_path / "pulled")
    assert answer.out.endswith("signature: unsigned\n")
    assert tuneport("pull", tmp_path / "store").code == 2
    assert tuneport("push", artifact, tmp_path / "other", "--secret-key", "x").code == 2
    refused = tuneport("push", artifact, tmp_path / "other.tar")
    assert (refused.code, "ends in .tar is for a bento" in refused.err) == (2, True)
    assert not (tmp_path / "other.tar").exists()


def test_a_server_that_does_not_run_skips_the_tests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("obstore")
    program = tmp_path / "s3" / "bin" / "moto_server"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\nexit 3\n")
    program.chmod(0o755)
    monkeypatch.setattr("sys.prefix", str(tmp_path))
    with pytest.raises(pytest.skip.Exception, match="moto_server ends with exit code 3"), s3_server(monkeypatch):
        raise AssertionError("the server runs")
