"""Each tutorial as it is, with its model and its data: what it prints is what the page shows."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from kit import ROOT
from kit.guides import DOCS, TUTORIALS, commands, lines_of, requests_of, run

from tuneport.schema.artifact import Manifest
from tuneport.schema.loading import load_manifest

KEYS = ("label", "text", "answer", "entity")
"""Parts of a prediction that another processor does not change; scores it may."""


def parts_of(prediction: Any) -> list[Any]:
    """List the labels and texts of a prediction, in order."""
    return [
        part[key]
        for part in ([prediction] if isinstance(prediction, dict) else prediction)
        for key in KEYS
        if key in part
    ]


def assert_alike(found: Any, shown: Any) -> None:
    """Compare a prediction with that of a page; a regression has nothing but a score, which differs a little."""
    assert parts_of(found) == parts_of(shown)
    if not parts_of(shown):
        assert found == {"score": pytest.approx(shown["score"], abs=0.3)}


def metrics_of(text: str) -> dict[str, dict[str, float]]:
    """Return the metrics of each split that a page shows, or that a training printed."""
    return {
        split: {name: float(value) for name, value in (part.split() for part in line.split(", "))}
        for split, line in re.findall(r"^(validation|test): (.+)$", text, re.M)
    }


def assert_metrics_alike(printed: str, text: str) -> None:
    """Compare the metrics that a training printed with those of its page: another processor rounds otherwise."""
    found, shown = metrics_of(printed), metrics_of(text)
    assert shown.keys() == {"validation", "test"}
    assert {split: [*each] for split, each in found.items()} == {split: [*each] for split, each in shown.items()}
    for split, metrics in shown.items():
        del metrics["loss"]
        assert {name: found[split][name] for name in metrics} == pytest.approx(metrics, abs=0.15), split


def assert_variants_alike(manifest: Manifest, text: str) -> None:
    """Compare the variants of an artifact with those of its page; whether one passes depends on the processor."""
    shown = dict(re.findall(r"^\| ([a-z][a-z0-9-]*)(?: [*†])? \| [^|]+ \| ([\d.]+ MB) \|", text, re.M))
    left_out = re.findall(r"^not in the artifact: ([a-z0-9-]+): ", text, re.M)
    assert shown
    assert {*shown, *left_out} == {each.name for each in (*manifest.variants, *manifest.rejected)}
    assert shown["fp32"] == f"{manifest.variant('fp32').execution.size_bytes / 1e6:.1f} MB"


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("document", TUTORIALS)
def test_a_tutorial(document: str, tmp_path: Path) -> None:
    for line in lines_of(document, "python docs/tutorials/prepare.py"):
        words = shlex.split(line)
        subprocess.run([sys.executable, ROOT / words[1], *words[2:]], cwd=tmp_path, check=True, timeout=300)
    text = (DOCS / document).read_text(encoding="utf-8")
    blocks = re.findall(r"^```json\n(.*?)^```", text, re.M | re.S)
    shown = [json.loads(line) for block in blocks[1:] for line in block.splitlines()]  # the first one is a row
    predicted = []
    for arguments in commands(document):
        output = run(arguments, tmp_path, requests=requests_of(document))
        sys.stdout.write(output)
        if arguments[0] == "finetune":
            assert_metrics_alike(output, text)
        elif arguments[0] == "export":
            assert_variants_alike(load_manifest(tmp_path / arguments[arguments.index("--out") + 1]), text)
        elif arguments[0] == "predict":
            predicted += [json.loads(line) for line in output.splitlines()]
    assert len(predicted) == len(shown) > 0
    for ours, theirs in zip(predicted, shown, strict=True):
        assert_alike(ours, theirs)
