"""Memory does not grow with the number of rows: not when they are read and encoded, and not when they are scored."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from kit import ROOT
from kit.data import write_splits
from kit.encoders import tiny_encoder

from tuneport.stages.finetune.config import FinetuneConfig
from tuneport.stages.finetune.setup import load_model, make_trainer, predict, prepare

PROGRAM = """
import json, resource, sys
from tuneport.stages.finetune.config import load_config
from tuneport.stages.finetune.setup import prepare
prepared = prepare(load_config(flags=json.loads(sys.argv[1])))
peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps({"rows": len(prepared.features["train"]), "peak_mib": peak_mib}))
"""


def _peak_mib(config: FinetuneConfig, rows: int, folder: Path) -> float:
    texts = ({"text": f"film music number {i}", "label": "ab"[i % 2]} for i in range(rows))
    data = write_splits(folder / "data", train=texts, validation=[{"text": "film", "label": "a"}] * 10)
    flags = {**config.model_dump(mode="json", exclude_none=True), "data": str(data)}
    environment = {**os.environ, "HF_HOME": str(folder), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", PROGRAM, json.dumps(flags)]
    done = subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, timeout=300)
    measured = json.loads(done.stdout.splitlines()[-1])
    assert measured["rows"] == rows
    return float(measured["peak_mib"])


@pytest.mark.slow
def test_ten_times_the_rows_take_as_much_memory(settings: Callable[..., FinetuneConfig], tmp_path: Path) -> None:
    few, many = (_peak_mib(settings(), rows, tmp_path / str(rows)) for rows in (20_000, 200_000))
    assert many < 1.15 * few


def test_tags_are_kept_and_not_their_logits(settings: Callable[..., FinetuneConfig], tmp_path: Path) -> None:
    rows = [{"tokens": ["anna", "in", "oslo"], "tags": ["B-P", "O", "B-L"]}] * 12
    data = write_splits(tmp_path / "data", train=rows, validation=rows)
    base = tiny_encoder(tmp_path / "base")
    prepared = prepare(settings(task="token-classification", model=str(base), data=str(data)))
    trainer = make_trainer(prepared, tmp_path, load_model(prepared))
    outputs, targets, _ = predict(trainer, prepared.features["validation"])
    assert outputs.shape == targets.shape == (12, 5)
    assert outputs.dtype.kind == "i"
