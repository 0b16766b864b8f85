"""Bentos pushed to and pulled from a folder and an S3 server."""

import tarfile
from collections.abc import Iterator
from pathlib import Path

import bentoml
import pytest
from kit.artifacts import change_byte, packed_model
from kit.command import assert_one_line, tuneport
from kit.storage import s3_server

from tuneport.errors import SignatureError, TuneportError
from tuneport.folders import sha256
from tuneport.schema.loading import check_files, load_manifest
from tuneport.signing import make_keys
from tuneport.stages.serve.archive import pull_bento, push_bento
from tuneport.stages.serve.bento import build
from tuneport.storage.remote import Remote, open_remote


@pytest.fixture(params=["folder", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    if request.param == "s3":
        with s3_server(monkeypatch) as bucket:
            yield f"{bucket}/bentos"
    else:
        yield str(tmp_path / "store")


@pytest.fixture
def tag(tiny_artifact: Path) -> Iterator[str]:
    """A bento that a test may delete."""
    bento = build(tiny_artifact, ("fp32",))
    yield str(bento.tag)
    if is_stored(str(bento.tag)):
        bentoml.delete(bento.tag)


def is_stored(tag: str) -> bool:
    return tag in {str(each.tag) for each in bentoml.list()}


def forget(tag: str) -> None:
    """Delete a bento and its model."""
    models = [model.tag for model in bentoml.get(tag).info.all_models]
    bentoml.delete(tag)
    for model in models:
        bentoml.models.delete(model)


def test_a_bento_comes_back_with_its_model_and_its_signature_is_checked(tag: str, place: str, tmp_path: Path) -> None:
    secret = tmp_path / "key"
    public = make_keys(secret).read_text()
    other = make_keys(tmp_path / "other").read_text()
    url = f"{place}/news.tar"
    push_bento(tag, url, secret_key=secret)
    with pytest.raises(TuneportError, match="--overwrite"):
        push_bento(tag, url)
    forget(tag)
    with pytest.raises(SignatureError, match=f"^{url}.sha256.minisig is not a signature of this news.tar.sha256 with"):
        pull_bento(url, other)
    assert not is_stored(tag)
    assert pull_bento(url, public) == tag
    model = packed_model(bentoml.get(tag))
    check_files(model, load_manifest(model))
    push_bento(tag, url, overwrite=True)
    forget(tag)
    with pytest.raises(SignatureError):  # it has none any more
        pull_bento(url, public)
    assert pull_bento(url) == tag


def test_a_damaged_bento_is_refused(tag: str, tmp_path: Path) -> None:
    url = str(tmp_path / "store" / "news.tar")
    push_bento(tag, url)
    forget(tag)
    change_byte(Path(url))
    answer = tuneport("pull", url)
    assert answer.code == 1
    assert_one_line(answer.err, "is damaged")
    assert not is_stored(tag)


def test_a_push_that_fails_leaves_nothing(tag: str, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    upload = Remote.upload

    def fail_at_the_hash(self: Remote, file: Path, name: str) -> None:
        if name.endswith(".sha256"):
            raise KeyboardInterrupt
        upload(self, file, name)

    with monkeypatch.context() as patch:
        patch.setattr(Remote, "upload", fail_at_the_hash)
        with pytest.raises(KeyboardInterrupt):
            push_bento(tag, f"{place}/news.tar")
    assert open_remote(place).names() == set()


@pytest.mark.parametrize("content", ["escape", "none"])
def test_an_archive_of_something_else_writes_nothing(content: str, tmp_path: Path) -> None:
    archive = tmp_path / "store" / "news.tar"
    archive.parent.mkdir()
    if content == "escape":
        with tarfile.open(archive, "w") as members:
            members.add(__file__, "../escaped")
    else:
        archive.write_bytes(b"nothing")
    Path(f"{archive}.sha256").write_text(f"{sha256(archive)}  news.tar\n")
    answer = tuneport("pull", archive)
    assert answer.code == 1
    assert_one_line(answer.err, f"{archive} is no bento")
    assert sorted(each.name for each in archive.parent.iterdir()) == ["news.tar", "news.tar.sha256"]


def test_what_is_no_bento_is_one_line(tmp_path: Path) -> None:
    for command in (
        ("push", "tuneport:nothing", tmp_path / "x.tar"),
        ("push", "tuneport:nothing", tmp_path / "x"),
        ("pull", tmp_path / "x.tar"),
    ):
        answer = tuneport(*command)
        assert answer.code == 1
        assert_one_line(answer.err)
