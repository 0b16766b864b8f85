"""The code of docs/howto/extend.md runs: its pass and variant pass the gate, and its backend answers as torch does."""

import re
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kit import ROOT
from kit.exports import Prepared

from tuneport.runtime.backends.base import Backend
from tuneport.runtime.batch import padded_batch
from tuneport.stages.export.build import Passed
from tuneport.stages.export.variants import VARIANTS


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the page's Python defines, block after block."""
    monkeypatch.setattr("tuneport.stages.export.variants.VARIANTS", dict(VARIANTS))
    text = (ROOT / "docs" / "howto" / "extend.md").read_text(encoding="utf-8")
    defined: dict[str, Any] = {}
    for block in re.findall(r"^ *```python\n(.*?)^ *```", text, re.M | re.S):
        exec(compile(textwrap.dedent(block), "extend.md", "exec"), defined)
    return defined


def test_the_pass_and_the_variant_pass_the_gate(names: dict[str, Any], prepared: Prepared, tmp_path: Path) -> None:
    outcome = prepared.builder(tmp_path).build_and_validate("stripped", names["VARIANTS"]["stripped"])
    assert isinstance(outcome, Passed), outcome
    assert (tmp_path / outcome.candidate.execution.files[0].path).is_file()


def test_the_backend_gives_torchs_outputs(names: dict[str, Any], prepared: Prepared) -> None:
    backend: Backend = names["ReferenceBackend"](prepared.graph.path)
    gate = prepared.reference.gate
    rows = [row for windows in gate.windows[:3] for row in windows]
    logits = backend.run(padded_batch(rows, prepared.reference.processing))["logits"]
    expected = [outputs[0]["logits"] for outputs in gate.expected[:3]]
    assert np.abs(logits - np.stack(expected)).max() < 1e-4
