"""Registering an artifact with BentoML, building the bento, and the command that serves."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import bentoml
from bentoml.exceptions import NotFound

from export.manifest import MANIFEST, check_files, load_manifest

MODEL_NAME = "tuneport"
SERVICE = "serve.service:Tuneport"
ROOT = Path(__file__).parents[1]
BENTOFILE = ROOT / "bentofile.yaml"
REQUIREMENTS = "serve/requirements.txt", "serve/requirements-generate.txt"
"""What bentofile.yaml names, and what stands for it where the model writes."""


def register(artifact: Path) -> str:
    """Copy an artifact into BentoML's model store as `tuneport:<version>`; returns that tag.

    An artifact that is there already is replaced only when its evidence differs. Raises ArtifactError for one
    that is damaged.
    """
    manifest = load_manifest(artifact)
    check_files(artifact, manifest)
    tag = f"{MODEL_NAME}:{manifest.version}"
    try:
        stored = Path(bentoml.models.get(tag).path)
        if (stored / MANIFEST).read_bytes() == (artifact / MANIFEST).read_bytes():
            return tag
        bentoml.models.delete(tag)
    except NotFound:
        pass
    labels = {"name": manifest.name, "task": manifest.task, "default_variant": manifest.default_variant}
    with bentoml.models.create(tag, labels=labels) as stored_model:
        shutil.copytree(artifact, stored_model.path, dirs_exist_ok=True)
    return tag


def build(artifact: Path) -> bentoml.Bento:
    """Register an artifact and build the bento that serves it; for a model that writes one with torch in its image."""
    tag = register(artifact)
    writes = load_manifest(artifact).processing.generation is not None
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as bentofile:
        text = BENTOFILE.read_text(encoding="utf-8")
        bentofile.write(text.replace(*REQUIREMENTS) if writes else text)
        bentofile.flush()
        return bentoml.bentos.build_bentofile(bentofile.name, build_ctx=str(ROOT), args={"model": tag})


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
