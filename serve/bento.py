"""Registers an artifact with BentoML, builds the bento, and composes the command that serves either."""

import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import bentoml
from bentoml._internal.configuration.containers import BentoMLContainer
from bentoml.exceptions import BentoMLException, NotFound

from tuneport.errors import ArtifactError, TuneportError
from tuneport.folders import sha256
from tuneport.schema.artifact import MANIFEST, Manifest
from tuneport.schema.loading import check_files, listed_files, load_manifest
from tuneport.tasks import task_spec

MODEL_NAME = "tuneport"
SERVICE = "tuneport.stages.serve.service:Tuneport"
BENTOFILE = "bentofile.yaml"
HOME_REMEDY = "set BENTOML_HOME to a folder that can be written"
REQUIREMENTS = "serve/requirements.txt"
"""What bentofile.yaml names: the packages of an image for encoders on CPUs."""


def register(artifact: Path) -> str:
    """Copy an artifact into BentoML's model store as `tuneport:<version>-<hash of its manifest>`; returns that tag.

    A stored artifact is never replaced, so that a bento keeps what it was built with; only a damaged copy is written
    again. Raises ArtifactError for an artifact that is damaged.
    """
    manifest = load_manifest(artifact)
    check_files(artifact, manifest)
    _check_home()
    tag = f"{MODEL_NAME}:{manifest.version}-{sha256(artifact / MANIFEST)[:8]}"
    try:
        stored = Path(bentoml.models.get(tag).path)
        check_files(stored, load_manifest(stored))
        return tag
    except NotFound:
        pass
    except ArtifactError:
        bentoml.models.delete(tag)
    _store(artifact, manifest, tag)
    return tag


def _check_home() -> None:
    """Raise TuneportError if BentoML's folder cannot be made; BentoML would print a traceback."""
    try:
        home = Path(BentoMLContainer.bentoml_home.get())
        (home / "models").mkdir(parents=True, exist_ok=True)
        is_writable = os.access(home / "models", os.W_OK)
    except (OSError, BentoMLException) as error:
        problem = f"BentoML's folder cannot be made ({_reason(error) if isinstance(error, OSError) else error})"
        raise TuneportError(problem, HOME_REMEDY) from error
    if not is_writable:
        raise TuneportError(f"BentoML's folder {home} cannot be written", HOME_REMEDY)


def _store(artifact: Path, manifest: Manifest, tag: str) -> None:
    labels = {"name": manifest.name, "task": manifest.task, "default_variant": manifest.default_variant}
    try:
        with bentoml.models.create(tag, labels=labels) as stored_model:
            for file in [MANIFEST, *(file.path for file in listed_files(manifest))]:
                target = Path(stored_model.path) / file
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(artifact / file, target)
    except OSError as error:
        problem = f"{artifact} cannot be copied into BentoML's store ({_reason(error)})"
        raise TuneportError(problem, "make room there, or set BENTOML_HOME; the artifact itself is whole") from error


def build(artifact: Path) -> bentoml.Bento:
    """Register an artifact and build the bento that serves it, with the packages that its variants need."""
    tag = register(artifact)
    with tempfile.TemporaryDirectory(prefix="tuneport-build-") as folder, _remove_unfinished_bentos():
        context = Path(folder)
        write_build_context(context, requirements_for(load_manifest(artifact)))
        return bentoml.bentos.build_bentofile(
            str(context / BENTOFILE),
            build_ctx=folder,
            args={"model": tag},
            reload=True,  # this process may have built the bento of another artifact
        )


def requirements_for(manifest: Manifest) -> str:
    """Return the file with what an artifact's image installs: torch for generative models, CUDA's libraries for GPUs.

    ONNX Runtime for GPUs runs variants for CPUs as well. Raises TuneportError for TensorRT with a generative model.
    """
    is_generative = task_spec(manifest.task).family == "generative"
    devices = {variant.execution.device for variant in manifest.variants}
    if "tensorrt" in devices and is_generative:
        raise TuneportError("there is no image for generative models on TensorRT", "export with --device cuda")
    target = "tensorrt" if "tensorrt" in devices else "gpu" if "cuda" in devices else ""
    parts = ["requirements", *(["generate"] if is_generative else []), *([target] if target else [])]
    return f"serve/{'-'.join(parts)}.txt"


def write_build_context(folder: Path, requirements: str) -> None:
    """Copy the installed package into a folder laid out like the root of a checkout, whose bentofile.yaml holds there.

    `requirements` is the file that the image installs.
    """
    package = Path(str(files("tuneport")))
    stage = package / "stages" / "serve"
    shutil.copytree(package, folder / "tuneport", ignore=_without_stages)
    shutil.copytree(stage, folder / "serve", ignore=shutil.ignore_patterns("__pycache__"))
    bentofile = (stage / BENTOFILE).read_text(encoding="utf-8")
    (folder / BENTOFILE).write_text(bentofile.replace(REQUIREMENTS, requirements), encoding="utf-8")


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


def serve_command(target: str, *, host: str, port: int, model: str | None = None) -> list[str]:
    """Return the command that serves a bento's tag or, with `model`, the installed service.

    Run it in a folder without Python files: BentoML lets modules of the working directory hide installed ones.
    """
    command = [sys.executable, "-P", "-m", "bentoml", "serve", target, "--host", host, "--port", str(port)]
    return [*command, "--arg", f"model={model}"] if model else command
