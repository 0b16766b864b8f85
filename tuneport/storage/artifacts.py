"""Push and pull artifacts. The manifest is written last and checked first, so that half an artifact is none."""

import shutil
from pathlib import Path

from tuneport.errors import TuneportError
from tuneport.folders import errors_name, new_folder
from tuneport.schema.artifact import MANIFEST, Manifest
from tuneport.schema.loading import check_files, listed_files, load_manifest
from tuneport.schema.selection import SELECTION
from tuneport.signing import SIGNATURE, SignatureCheck, check_signature

from .remote import Remote, open_remote

BESIDE = (SIGNATURE, SELECTION)
"""Files beside the manifest that it does not list, of which none need be there."""


def push(artifact: Path, url: str, *, overwrite: bool = False) -> Manifest:
    """Copy an artifact to a URL, after a check of its hashes; returns its manifest.

    Readers find the whole artifact, or none: on a disk it is renamed, elsewhere the manifest comes last. A transfer
    that fails removes what it wrote; one that was killed leaves no manifest, and the same command continues it. Raises
    ArtifactError for a damaged artifact, and TuneportError for a URL that cannot be written or holds something else.
    """
    manifest = load_manifest(artifact)
    check_files(artifact, manifest)
    names = [file.path for file in listed_files(manifest)]
    names += [name for name in BESIDE if (artifact / name).is_file()]
    remote = open_remote(url)
    if remote.local is not None:
        with new_folder(remote.local, marker=MANIFEST, overwrite=overwrite, given_as="folder") as folder:
            for name in [*names, MANIFEST]:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(artifact / name, folder / name)
        return manifest
    there = remote.names()
    _check_place(remote, there, {*names, *BESIDE, MANIFEST}, overwrite=overwrite)
    _upload(remote, artifact, names, there)
    return manifest


def pull(
    url: str, out: Path, *, public_key: str | None = None, is_required: bool = False, overwrite: bool = False
) -> tuple[Manifest, SignatureCheck]:
    """Copy an artifact from a URL to a folder, which appears when every hash and the signature have been checked.

    Returns its manifest and what is known of its signature. Raises SignatureError for a signature that `public_key`
    did not make, and for none if it `is_required`; ArtifactError for a damaged file; TuneportError for a URL that
    cannot be read.
    """
    remote = open_remote(url)
    with new_folder(out, marker=MANIFEST, overwrite=overwrite) as folder:
        there = remote.names()
        if MANIFEST not in there:
            remedy = "correct the URL; a push that was interrupted must be repeated"
            raise TuneportError(f"{url} holds no artifact: there is no {MANIFEST}", remedy)
        for name in {MANIFEST, *BESIDE} & there:
            remote.download(remote.at(name), folder / name)
        with errors_name(url.rstrip("/"), folder):
            signature = check_signature(folder, public_key, is_required=is_required)  # before anything else is fetched
            manifest = load_manifest(folder)
        for file in listed_files(manifest):
            remote.download(remote.at(file.path), folder / file.path)
        with errors_name(url.rstrip("/"), folder):
            check_files(folder, manifest)
    return manifest, signature


def _check_place(remote: Remote, there: set[str], names: set[str], *, overwrite: bool) -> None:
    """Raise a TuneportError for a place that holds an artifact, unless it is replaced, or anything else."""
    if MANIFEST in there and not overwrite:
        raise TuneportError(f"{remote.url} holds an artifact", "choose another URL, or pass --overwrite to replace it")
    if MANIFEST not in there and there - names:
        example = min(there - names)
        raise TuneportError(f"{remote.url} holds something else ({example})", "choose another URL")


def _upload(remote: Remote, artifact: Path, names: list[str], there: set[str]) -> None:
    """Write all files, the manifest last; nothing is left of what fails."""
    remote.remove(remote.at(MANIFEST))
    written: list[str] = []
    try:
        for name in [*names, MANIFEST]:
            written.append(remote.at(name))
            remote.upload(artifact / name, written[-1])
    except BaseException:
        for name in written:
            remote.remove(name)
        raise
    for name in BESIDE:  # of the artifact that was replaced
        if name in there and name not in names:
            remote.remove(remote.at(name))
