"""Bentos in another folder or in an object store, as one .tar file that `bentoml import` reads as well.

NAME.tar.sha256 beside it has its hash, in the form of sha256sum, and NAME.tar.sha256.minisig the signature of that. The
hash is written last, so that half an upload is no bento.
"""

import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import bentoml
from bentoml._internal.bento.bento import Bento
from bentoml.exceptions import BentoMLException, NotFound

from tuneport.errors import TuneportError
from tuneport.folders import errors_name, sha256
from tuneport.schema.loading import check_files, load_manifest
from tuneport.signing import check_file_signature, check_signature, sign_file
from tuneport.storage.remote import Remote, open_remote

SUFFIX = ".tar"
HASH, HASH_SIGNATURE = ".sha256", ".sha256.minisig"


def push_bento(tag: str, url: str, *, secret_key: Path | None = None, overwrite: bool = False) -> str:
    """Copy a bento with its models to a URL, signed if there is a key; returns its full tag.

    Raises ArtifactError for a damaged artifact in it, TuneportError for an unknown tag or a URL that cannot be written.
    """
    if not url.endswith(SUFFIX):
        raise TuneportError(f"{url} is no name of a bento", f"end it in {SUFFIX}")
    remote = open_remote(url)
    with _bentoml_errors(f"the bento {tag}"), tempfile.TemporaryDirectory(prefix="tuneport-push-") as folder:
        bento = bentoml.get(tag)
        for model in bento.info.all_models:
            _check_artifact(Path(bentoml.models.get(model.tag).path), None)
        archive = Path(folder, "bento.tar")
        bento.export(str(archive), "tar")
        hash_file = archive.with_name(archive.name + HASH)
        hash_file.write_text(f"{sha256(archive)}  {Path(remote.path).name}\n", encoding="ascii")
        files = {"": archive, HASH: hash_file}
        if secret_key is not None:
            signature = archive.with_name(archive.name + HASH_SIGNATURE)
            sign_file(hash_file, signature, secret_key, f"tuneport bento {bento.tag}")
            files = {"": archive, HASH_SIGNATURE: signature, HASH: hash_file}
        _upload(remote, files, overwrite=overwrite)
    return str(bento.tag)


def pull_bento(url: str, public_key: str | None = None) -> str:
    """Import a bento into BentoML's store after a check of its hash, of its signature, and of the artifact in it.

    With a `public_key` the bento must be signed by it. Returns the bento's tag. Raises SignatureError, ArtifactError or
    TuneportError, with nothing imported.
    """
    remote = open_remote(url)
    with _bentoml_errors(url), tempfile.TemporaryDirectory(prefix="tuneport-pull-") as folder:
        archive = Path(folder, Path(remote.path).name)
        hash_file = archive.with_name(archive.name + HASH)
        remote.download(remote.path + HASH, hash_file)
        if public_key is not None:
            signature = archive.with_name(archive.name + HASH_SIGNATURE)
            if remote.exists(remote.path + HASH_SIGNATURE):
                remote.download(remote.path + HASH_SIGNATURE, signature)
            with errors_name(url, archive):
                check_file_signature(hash_file, signature, public_key)
        remote.download(remote.path, archive)
        if sha256(archive) != hash_file.read_text(encoding="ascii", errors="replace").partition(" ")[0]:
            raise TuneportError(f"{url} is damaged: its SHA-256 is not that beside it", "push it again")
        with errors_name(url, archive):
            _check_members(archive)
        bento = Bento.import_from(str(archive), "tar")
        with errors_name(url, Path(bento._path)):
            for model in bento.info.all_models:
                _check_artifact(Path(bento._path, "models", model.tag.path()), None)
        bento.save()
    return str(bento.tag)


def _check_members(archive: Path) -> None:
    """Raise a TuneportError for an archive with a file that would be written outside of its folder, or a device."""
    try:
        with tarfile.open(archive) as members:
            for member in members:
                tarfile.data_filter(member, str(archive.parent))
    except tarfile.TarError as error:
        raise TuneportError(
            f"{archive} is no bento ({error})", "push it again, from a source that you trust"
        ) from error


def _check_artifact(folder: Path, public_key: str | None) -> None:
    check_signature(folder, public_key)
    check_files(folder, load_manifest(folder))


def _upload(remote: Remote, files: dict[str, Path], *, overwrite: bool) -> None:
    """Write the files, the hash last; nothing is left of what fails."""
    if remote.exists(remote.path + HASH) and not overwrite:
        raise TuneportError(f"{remote.url} exists", "choose another URL, or pass --overwrite to replace it")
    for suffix in (HASH, HASH_SIGNATURE):
        remote.remove(remote.path + suffix)
    try:
        for suffix, file in files.items():
            remote.upload(file, remote.path + suffix)
    except BaseException:
        for suffix in files:
            remote.remove(remote.path + suffix)
        raise


@contextmanager
def _bentoml_errors(what: str) -> Iterator[None]:
    try:
        yield
    except NotFound as error:
        raise TuneportError(f"{what} is not there", "`bentoml list` shows the bentos") from error
    except (BentoMLException, OSError) as error:
        reason = (str(error).splitlines() or [""])[0][:200]
        raise TuneportError(f"{what} cannot be copied ({reason})", "see the reason; nothing was left behind") from error
