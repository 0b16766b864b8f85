"""The run's report."""

from pathlib import Path
from typing import Any

from export.manifest import Run
from finetune.evaluate import Evaluation


def write_report(out: Path, run: Run, evaluations: dict[str, Evaluation], history: list[dict[str, Any]]) -> None:
    """Write report.html, curves.png and confusion.png; `history` is the Trainer's log."""
