"""Serving an encoder imports neither torch nor transformers; each in a fresh interpreter."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from kit import ROOT
from kit.encoders import LABELS

HEAVY = (
    "torch", "transformers", "onnx", "optimum", "datasets", "sklearn", "safetensors",
    "matplotlib", "peft", "accelerate", "optuna",
)  # fmt: skip


def modules_after(script: str, environment: dict[str, str] | None = None) -> tuple[list[str], list[str]]:
    """Run a script; returns what it printed and the names of HEAVY that it had imported."""
    ending = f"\nimport sys, json; print(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))"
    done = subprocess.run(
        [sys.executable, "-c", script + ending],
        cwd=ROOT,
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    *printed, last = done.stdout.splitlines()
    return printed, json.loads(last)


def test_the_check_itself_sees_a_heavy_import() -> None:
    assert modules_after("import safetensors") == ([], ["safetensors"])


@pytest.mark.parametrize("variant", ["fp32", "int8"])
def test_predicting_is_torch_free(tiny_artifact: Path, variant: str) -> None:
    script = f"""
import tuneport.stages.serve.http.app, tuneport.stages.serve.grpc.server
from pathlib import Path
from tuneport.stages.serve.inference import Inference
from tuneport.stages.serve.settings import Settings
inference = Inference.open(Path({str(tiny_artifact)!r}), Settings(variant={variant!r}))
print(*(each["label"] for each in inference.predictor.predict(["bank", "the team won " * 100])))
inference.close()
"""
    printed, heavy = modules_after(script)
    answers = printed[0].split()
    assert len(answers) == 2
    assert set(answers) <= set(LABELS)
    assert heavy == []


def test_the_service_is_torch_free(tiny_artifact: Path, tmp_path: Path) -> None:
    script = f"""
from pathlib import Path
from tuneport.stages.serve.bento import register
register(Path({str(tiny_artifact)!r}))
from tuneport.stages.serve.service import Tuneport
print(Tuneport.inner().worker.models.default.name)
"""
    printed, heavy = modules_after(script, {"BENTOML_HOME": str(tmp_path)})
    assert printed == ["tiny"]
    assert heavy == []


def test_what_only_starts_workers_imports_no_engine() -> None:
    script = """
import sys, tuneport.stages.serve.service
print([name for name in ("onnxruntime", "tokenizers") if name in sys.modules])
"""
    assert modules_after(script) == (["[]"], [])


@pytest.mark.parametrize("arguments", [("verify",), ("predict",), ("inspect",)])
def test_commands_that_serve_are_torch_free(tiny_artifact: Path, arguments: tuple[str, ...]) -> None:
    argv = ["tuneport", *arguments, str(tiny_artifact), *(["bank"] if "predict" in arguments else [])]
    script = f"""
import sys
sys.argv = {argv!r}
from tuneport.cli.main import main
try:
    main()
except SystemExit as end:
    assert end.code == 0
"""
    assert modules_after(script)[1] == []
