"""Writes report.html: metrics, learning curves, confusion matrix, worst mistakes and settings of a run.

The pictures are embedded, so that the page is complete by itself, and also written as PNG files.
"""

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from tuneport.schema.run import Run

from .evaluate import Evaluation
from .pictures import draw_confusion, draw_curves

REPORT, CURVES, CONFUSION = "report.html", "curves.png", "confusion.png"
TEMPLATE = Path(__file__).with_name("report.html.j2")
MAX_DRAWN_LABELS = 40
"""A larger confusion matrix is not legible as a picture; evaluation.json has it as a table."""


def write_report(out: Path, run: Run, evaluations: dict[str, Evaluation], history: Sequence[dict[str, Any]]) -> None:
    """Write report.html, curves.png and, where a task has a confusion matrix, confusion.png.

    `history` is the Trainer's log: dicts with `epoch`, and `loss`, `learning_rate` or `eval_…`.
    """
    pictures = {}
    split = "test" if "test" in evaluations else "validation"
    shown = evaluations[split]
    if draw_curves(out / CURVES, history):
        pictures["Learning curves"] = out / CURVES
    if shown.confusion and len(run.labels) <= MAX_DRAWN_LABELS:
        draw_confusion(out / CONFUSION, np.array(shown.confusion), run.labels, split)
        pictures["Confusion matrix"] = out / CONFUSION
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    page = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        name=out.name,
        run=run,
        evaluations=evaluations,
        split=split,
        shown=shown,
        pictures={title: base64.b64encode(file.read_bytes()).decode() for title, file in pictures.items()},
    )
    (out / REPORT).write_text(page, encoding="utf-8")
