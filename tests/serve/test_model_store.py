"""Artifacts in BentoML's model store."""

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import bentoml
import pytest
from bentoml.exceptions import BentoMLException, NotFound
from kit import ROOT
from kit.artifacts import change_byte
from kit.command import assert_one_line

from tuneport.errors import ArtifactError, TuneportError
from tuneport.schema.artifact import MANIFEST, Manifest
from tuneport.schema.loading import check_files, load_manifest
from tuneport.stages.serve.bento import register
from tuneport.stages.serve.packing import pack
from tuneport.stages.serve.registered import find_artifact


def test_registering_twice_keeps_one_copy(tiny_artifact: Path, manifest: Manifest) -> None:
    tag = register(tiny_artifact)
    stored = Path(bentoml.models.get(tag).path)
    before = (stored / MANIFEST).stat().st_ino
    assert tag.startswith(f"tuneport:{manifest.version}-")
    assert tag == register(tiny_artifact)
    assert (stored / MANIFEST).stat().st_ino == before


def test_another_export_of_the_same_model_is_stored_beside_the_old(artifact: Path, tiny_artifact: Path) -> None:
    """A bento that names the old one must not serve another variant from one day to the next."""
    tag = register(tiny_artifact)
    load_manifest(artifact).model_copy(update={"default_variant": "int8"}).save(artifact)
    other = register(artifact)
    assert other.partition("-")[0] == tag.partition("-")[0]
    assert [load_manifest(Path(bentoml.models.get(each).path)).default_variant for each in (tag, other)] == [
        load_manifest(tiny_artifact).default_variant,
        "int8",
    ]


def test_two_artifacts_of_one_name_are_packed_into_no_bento(artifact: Path, tiny_artifact: Path) -> None:
    """`bentoml build --arg model=TAG,TAG` asks nobody but the packing."""
    load_manifest(artifact).model_copy(update={"default_because": "exported again"}).save(artifact)
    tags = [register(tiny_artifact), register(artifact)]
    assert tags[0] != tags[1]
    with pytest.raises(TuneportError, match="both named tiny"):
        pack(tags[0], beside=tags[1:])


def test_what_bentos_pack_of_an_artifact_is_not_taken_for_it(artifact: Path) -> None:
    load_manifest(artifact).model_copy(update={"default_because": "packed twice"}).save(artifact)
    tag = register(artifact)
    bentoml.models.delete(tag)
    for part in ("-0000aaaa", "-0000bbbb"):  # BentoML finds a tag by its beginning, and fails where two begin so
        with bentoml.models.create(tag + part) as stored:
            Path(stored.path, "part").touch()
    assert register(artifact) == tag
    assert (Path(bentoml.models.get(tag).path) / MANIFEST).is_file()


def test_a_part_is_neither_the_latest_artifact_nor_one_that_is_gone(artifact: Path) -> None:
    """What `bentoml build` builds and `bentoml serve` serves where a bento was built in the meantime."""
    load_manifest(artifact).model_copy(update={"default_because": "exported later"}).save(artifact)
    tag = register(artifact)
    part = pack(tag, ["fp32"])
    assert str(bentoml.models.get("tuneport:latest").tag) == part
    for known in ("tuneport:latest", "tuneport", tag, tag[:-2]):
        assert str(find_artifact(known).tag) == tag
    assert str(find_artifact(part).tag) == part
    bentoml.models.delete(tag)
    with pytest.raises(NotFound, match=tag):
        find_artifact(tag)
    assert str(find_artifact(tag, or_part=True).tag) == part  # as in a bento, which has parts alone
    assert "variants" not in find_artifact("tuneport:latest").info.labels
    bentoml.models.delete(part)


def test_the_latest_artifact_is_the_one_that_was_registered_last_if_again(artifact: Path, tiny_artifact: Path) -> None:
    first = register(tiny_artifact)
    load_manifest(artifact).model_copy(update={"default_because": "exported in between"}).save(artifact)
    second = register(artifact)
    assert str(find_artifact("tuneport:latest").tag) == second
    assert register(tiny_artifact) == first
    assert str(find_artifact("tuneport:latest").tag) == first
    beginning = first.partition("-")[0]
    assert second.startswith(beginning)
    with pytest.raises(BentoMLException, match=rf"several artifacts begin with {beginning}: .*{second}"):
        find_artifact(beginning)


def test_what_was_not_written_to_its_end_is_in_nobody_s_way(artifact: Path) -> None:
    load_manifest(artifact).model_copy(update={"default_because": "beside a part"}).save(artifact)
    tag = register(artifact)
    model = bentoml.models.get(tag)
    Path(model.path).with_name("0-incomplete").mkdir()
    assert str(find_artifact("tuneport:latest").tag) == str(find_artifact(tag[:-2]).tag) == tag == register(artifact)
    Path(model.path, "model.yaml").unlink()
    with pytest.raises(NotFound):
        find_artifact(tag)
    with pytest.raises(TuneportError, match="a part of") as caught:
        register(artifact)
    assert model.path in caught.value.remedy
    for folder in (Path(model.path), Path(model.path).with_name("0-incomplete")):
        shutil.rmtree(folder)


def test_a_damaged_copy_in_the_store_is_replaced(artifact: Path) -> None:
    load_manifest(artifact).model_copy(update={"default_because": "chosen"}).save(artifact)
    (artifact / "stranger").write_text("not listed")
    stored = Path(bentoml.models.get(register(artifact)).path)
    assert not (stored / "stranger").exists()
    change_byte(stored / "onnx" / "fp32" / "model.onnx")
    assert Path(bentoml.models.get(register(artifact)).path) == stored
    check_files(stored, load_manifest(stored))


def test_a_full_disk_is_one_line(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load_manifest(artifact).model_copy(update={"default_because": "no room"}).save(artifact)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("shutil.copyfile", full)
    with pytest.raises(TuneportError, match=r"cannot be copied into BentoML's store .No space left"):
        register(artifact)


def test_a_damaged_artifact_is_not_registered(artifact: Path) -> None:
    change_byte(artifact / "tokenizer.json")
    with pytest.raises(ArtifactError):
        register(artifact)


@pytest.mark.parametrize("home", ["/dev/null/home", "{file}"])
def test_a_home_that_cannot_be_made_is_one_line(tiny_artifact: Path, tmp_path: Path, home: str) -> None:
    (tmp_path / "file").touch()
    done = subprocess.run(
        [sys.executable, "-m", "tuneport", "build", str(tiny_artifact)],
        env={**os.environ, "BENTOML_HOME": home.format(file=tmp_path / "file")},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 1
    assert_one_line(done.stderr, "BentoML's folder", "BENTOML_HOME")
