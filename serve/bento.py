"""Registers an artifact with BentoML, builds the bento, and composes the command that serves either."""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from importlib.resources import files
from pathlib import Path

import bentoml
from bentoml._internal.configuration.containers import BentoMLContainer
from bentoml.exceptions import BentoMLException

from tuneport.errors import ArtifactError, TuneportError
from tuneport.schema.artifact import Manifest
from tuneport.schema.loading import check_distinct_names, check_files, load_manifest
from tuneport.signing import SIGNATURE

from .packing import copy_artifact, model_labels, pack
from .process import serve_environment
from .registered import MODEL_NAME, find_artifact, find_exactly, folder_of, mark_registered, tag_of

SERVICE = "tuneport.stages.serve.service:Tuneport"
BENTOFILE = "bentofile.yaml"
HOME_REMEDY = "set BENTOML_HOME to a folder that can be written"


def register(artifact: Path) -> str:
    """Copy an artifact into BentoML's model store as `tuneport:<version>-<hash of its manifest>`; returns that tag.

    A stored artifact is never replaced, so that a bento keeps what it was built with; only a damaged copy is written
    again. Raises ArtifactError for an artifact that is damaged.
    """
    manifest = load_manifest(artifact)
    check_files(artifact, manifest)
    _check_home()
    tag = tag_of(artifact, manifest)
    if model := find_exactly(tag):
        stored = Path(model.path)
        try:
            check_files(stored, load_manifest(stored))
        except ArtifactError:
            bentoml.models.delete(tag)
        else:
            _update_signature(artifact, stored)
            mark_registered(model)
            return tag
    elif folder_of(tag).exists():
        problem = f"BentoML's store has a part of {tag} alone, from a command that was ended"
        raise TuneportError(problem, f"remove {folder_of(tag)}, unless another command writes it right now")
    _store(artifact, manifest, tag)
    return tag


def _check_home() -> None:
    """Raise TuneportError if BentoML's folder cannot be made; BentoML would print a traceback."""
    try:
        home = Path(BentoMLContainer.bentoml_home.get()).absolute()
        BentoMLContainer.bentoml_home.set(str(home))  # because a build changes the working directory
        (home / "models").mkdir(parents=True, exist_ok=True)
        is_writable = os.access(home / "models", os.W_OK)
    except (OSError, BentoMLException) as error:
        problem = f"BentoML's folder cannot be made ({_reason(error) if isinstance(error, OSError) else error})"
        raise TuneportError(problem, HOME_REMEDY) from error
    if not is_writable:
        raise TuneportError(f"BentoML's folder {home} cannot be written", HOME_REMEDY)


def _store(artifact: Path, manifest: Manifest, tag: str) -> None:
    try:
        with bentoml.models.create(tag, labels=model_labels(artifact, manifest)) as stored_model:
            copy_artifact(artifact, manifest, Path(stored_model.path))
    except OSError as error:
        raise _full_store(artifact, error) from error


def _full_store(artifact: Path, error: OSError) -> TuneportError:
    problem = f"{artifact} cannot be copied into BentoML's store ({_reason(error)})"
    return TuneportError(problem, "make room there, or set BENTOML_HOME; the artifact itself is whole")


def _update_signature(artifact: Path, stored: Path) -> None:
    """Bring a signature that was made after the artifact was stored."""
    if (artifact / SIGNATURE).is_file():
        shutil.copyfile(artifact / SIGNATURE, stored / SIGNATURE)
    else:
        (stored / SIGNATURE).unlink(missing_ok=True)


def registered_labels(tag: str) -> dict[str, str]:
    """Return the labels of a registered artifact; none where there is no such artifact."""
    try:
        return dict(find_artifact(tag, or_part=True).info.labels)
    except BentoMLException:
        return {}


def build(artifact: Path, variants: Sequence[str] = (), more: Sequence[Path] = ()) -> bentoml.Bento:
    """Register an artifact and build the bento that serves it, with `more` artifacts beside it.

    The bento holds `variants` of each, of which the first serves by default; by default the artifact's default variant
    and its fallback. Its image installs what these need. Raises TuneportError for two artifacts of one name.
    """
    artifacts = [artifact, *more]
    check_distinct_names(artifacts)
    tags = [register(each) for each in artifacts]
    for each, tag in zip(artifacts, tags, strict=True):
        try:  # for errors of its own: BentoML would report them with a traceback
            pack(tag, variants, [other for other in tags if other != tag])
        except OSError as error:
            raise _full_store(each, error) from error
    with tempfile.TemporaryDirectory(prefix="tuneport-build-") as folder, _remove_unfinished_bentos():
        write_build_context(Path(folder))
        # BentoML reads the Dockerfile's template only below the working directory.
        with contextlib.chdir(folder):
            return _build_bento(Path(folder), {"model": ",".join(tags), "variants": ",".join(variants)})


def _build_bento(context: Path, arguments: dict[str, str]) -> bentoml.Bento:
    # Reloaded because this process may have built the bento of another artifact.
    return bentoml.bentos.build_bentofile(str(context / BENTOFILE), build_ctx=str(context), args=arguments, reload=True)


def write_build_context(folder: Path) -> None:
    """Copy the installed package into a folder laid out like the root of a checkout, whose bentofile.yaml holds there.

    What a bento packs of it is for that file to say.
    """
    package = Path(str(files("tuneport")))
    stage = package / "stages" / "serve"
    shutil.copytree(package, folder / "tuneport", ignore=_without_stages)
    shutil.copytree(stage, folder / "serve", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copyfile(stage / BENTOFILE, folder / BENTOFILE)


def _without_stages(folder: str, names: list[str]) -> list[str]:
    """Name what is not copied: the folders below tuneport/stages, and byte code."""
    return [name for name in names if name != "__init__.py"] if Path(folder).name == "stages" else ["__pycache__"]


@contextlib.contextmanager
def _remove_unfinished_bentos() -> Iterator[None]:
    """Remove what BentoML leaves in its store if the build fails or is interrupted."""
    home = Path(BentoMLContainer.bentoml_home.get())
    before = _bento_folders(home)
    try:
        yield
    except BaseException as error:
        for folder in _bento_folders(home) - before:
            shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, OSError):
            problem = f"the bento cannot be written ({_reason(error)})"
            raise TuneportError(problem, "make room in BentoML's store, or set BENTOML_HOME") from error
        raise


def _bento_folders(home: Path) -> set[Path]:
    """List the folders of bentos that are being built or are finished."""
    return {*(home / "tmp").glob("*"), *(home / "bentos" / MODEL_NAME).glob("*")}


def _reason(error: OSError) -> str:
    """Return the reason of a failed copy, once and not for each file that shutil tried."""
    if isinstance(error, shutil.Error) and error.args and error.args[0]:
        return str(error.args[0][0][-1]).partition(":")[0]
    return error.strerror or str(error)[:120]


def containerize(tag: str, options: Sequence[str] = ()) -> int:
    """Build a bento's image with `bentoml containerize`; returns the exit code.

    BentoML 1.4 reads the Dockerfile's template, which it has copied to a temporary folder, only if that lies below the
    working directory.
    """
    command = [sys.executable, "-P", "-m", "bentoml", "containerize", tag, *options]
    return subprocess.run(command, cwd="/", env=serve_environment(), check=False).returncode


def serve_command(target: str, *, host: str, port: int, model: str | None = None) -> list[str]:
    """Return the command that serves a bento's tag or, with `model`, the installed service.

    Run it in a folder without Python files: BentoML lets modules of the working directory hide installed ones.
    """
    command = [sys.executable, "-P", "-m", "bentoml", "serve", target, "--host", host, "--port", str(port)]
    return [*command, "--arg", f"model={model}"] if model else command
