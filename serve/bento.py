"""Registering an artifact with BentoML, building the bento, and the command that serves."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import bentoml
from bentoml._internal.configuration.containers import BentoMLContainer
from bentoml.exceptions import NotFound

from export.files import ArtifactError, TuneportError, sha256
from export.manifest import MANIFEST, check_files, listed_files, load_manifest

MODEL_NAME = "tuneport"
SERVICE = "serve.service:Tuneport"
ROOT = Path(__file__).parents[1]
BENTOFILE = ROOT / "bentofile.yaml"
REQUIREMENTS = "serve/requirements.txt", "serve/requirements-generate.txt"
"""What bentofile.yaml names, and what stands for it where the model writes."""


def register(artifact: Path) -> str:
    """Copy an artifact into BentoML's model store as `tuneport:<version>-<hash of its manifest>`; returns that tag.

    What is stored is never replaced by another export, which may serve another variant: a bento keeps what it was
    built with. Raises ArtifactError for an artifact that is damaged; a copy that is, is made anew.
    """
    manifest = load_manifest(artifact)
    check_files(artifact, manifest)
    tag = f"{MODEL_NAME}:{manifest.version}-{sha256(artifact / MANIFEST)[:8]}"
    try:
        stored = Path(bentoml.models.get(tag).path)
        check_files(stored, load_manifest(stored))
        return tag
    except NotFound:
        pass
    except ArtifactError:
        bentoml.models.delete(tag)
    labels = {"name": manifest.name, "task": manifest.task, "default_variant": manifest.default_variant}
    files = [MANIFEST, *(file.path for file in listed_files(manifest))]
    try:
        with bentoml.models.create(tag, labels=labels) as stored_model:
            for file in files:
                target = Path(stored_model.path) / file
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(artifact / file, target)
    except OSError as error:
        problem = f"{artifact} cannot be copied into BentoML's store ({_reason(error)})"
        raise TuneportError(problem, "make room there, or set BENTOML_HOME; the artifact itself is whole") from error
    return tag


def build(artifact: Path) -> bentoml.Bento:
    """Register an artifact and build the bento that serves it; for a model that writes one with torch in its image."""
    tag = register(artifact)
    writes = load_manifest(artifact).processing.generation is not None
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as bentofile, _nothing_half_built():
        text = BENTOFILE.read_text(encoding="utf-8")
        bentofile.write(text.replace(*REQUIREMENTS) if writes else text)
        bentofile.flush()
        return bentoml.bentos.build_bentofile(bentofile.name, build_ctx=str(ROOT), args={"model": tag})


@contextlib.contextmanager
def _nothing_half_built() -> Iterator[None]:
    """Remove what BentoML leaves in its folders if the build is interrupted, or fails."""
    home = Path(BentoMLContainer.bentoml_home.get())
    before = _bentos(home)
    try:
        yield
    except BaseException as error:
        for left in _bentos(home) - before:
            shutil.rmtree(left, ignore_errors=True)
        if isinstance(error, OSError):
            problem = f"the bento cannot be written ({_reason(error)})"
            raise TuneportError(problem, "make room in BentoML's store, or set BENTOML_HOME") from error
        raise


def _bentos(home: Path) -> set[Path]:
    """List where bentos are built and where they come to stand."""
    return {*(home / "tmp").glob("*"), *(home / "bentos" / MODEL_NAME).glob("*")}


def _reason(error: OSError) -> str:
    """Name what is wrong once, not for each file that shutil did not copy."""
    if isinstance(error, shutil.Error) and error.args and error.args[0]:
        return str(error.args[0][0][-1]).partition(":")[0]
    return error.strerror or str(error)[:120]


def serve_command(target: str, *, host: str, port: int, model: str | None = None) -> list[str]:
    """Return the command that serves a bento's tag or, with `model`, the service from this checkout."""
    command = [sys.executable, "-m", "bentoml", "serve", target, "--host", host, "--port", str(port)]
    return [*command, "--arg", f"model={model}"] if model else command


def serve_environment() -> dict[str, str]:
    """Return this environment with what makes BentoML's own request path cheap, unless set otherwise."""
    return {"OTEL_SDK_DISABLED": "true", "BENTOML_DO_NOT_TRACK": "true", **os.environ}


def run_service(command: list[str], environment: dict[str, str]) -> int:
    """Run the service until it ends or a signal comes, and return its exit code.

    Raises what stopped it from starting.
    """
    from serve.lifecycle import read_failed_start
    from serve.settings import START_REPORT

    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report"
        process = subprocess.Popen(command, cwd=ROOT, env={**environment, START_REPORT: str(report)})
        while True:
            try:
                code = process.wait()
                break
            except KeyboardInterrupt:  # a SIGTERM, too: the command line turns it into one
                with contextlib.suppress(ProcessLookupError):
                    process.send_signal(signal.SIGTERM)
        if error := read_failed_start(report):
            raise error
        return code
