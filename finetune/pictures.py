"""Draw the pictures of a run: learning curves and confusion matrix."""

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("agg")
from matplotlib import font_manager, pyplot

FALLBACK_FONTS = (
    "Noto Sans CJK SC", "Noto Sans CJK JP", "WenQuanYi Zen Hei", "IPAGothic", "Hiragino Sans", "Microsoft YaHei",
    "Noto Sans Arabic", "Noto Sans Devanagari", "Noto Sans Thai", "Noto Sans",
)  # fmt: skip
"""Fonts for scripts that matplotlib's own font lacks, used where they are installed."""
MAX_LABELS_WITH_COUNTS = 20
"""Up to so many labels the cells of the confusion matrix show their counts."""


@contextlib.contextmanager
def _literal_text() -> Iterator[None]:
    """Draw texts literally, without formulas between dollar signs, and with fallback fonts for other scripts.

    Characters that no font has are drawn as boxes, without a warning for each.
    """
    installed = {font.name for font in font_manager.fontManager.ttflist}
    fonts = [*pyplot.rcParams["font.sans-serif"][:1], *(name for name in FALLBACK_FONTS if name in installed)]
    changes: dict[Any, Any] = {"text.parse_math": False, "font.family": fonts}
    with pyplot.rc_context(changes), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield


@_literal_text()
def draw_curves(file: Path, history: Sequence[dict[str, Any]]) -> bool:
    """Draw the losses, the metrics and the learning rate over the epochs; False if nothing was logged."""
    panels = {
        "loss": {"train": _curve(history, "loss"), "validation": _curve(history, "eval_loss")},
        "validation metrics": {name.removeprefix("eval_"): _curve(history, name) for name in _logged_metrics(history)},
        "learning rate": {"": _curve(history, "learning_rate")},
    }
    panels = {title: curves for title, curves in panels.items() if any(len(x) for x, _ in curves.values())}
    if not panels:
        return False
    size = (4.2 * len(panels), 3.2)
    figure, axes = pyplot.subplots(1, len(panels), figsize=size, layout="constrained", squeeze=False)
    for axis, (title, curves) in zip(axes[0], panels.items(), strict=True):
        for name, (x, y) in curves.items():
            if len(x):
                axis.plot(x, y, label=name, marker="o" if len(x) < 12 else None, markersize=3, linewidth=1.5)
        axis.set(title=title, xlabel="epoch")
        axis.spines[["top", "right"]].set_visible(False)
        if len(curves) > 1:
            axis.legend(frameon=False, fontsize=8)
    figure.savefig(file, dpi=120)
    pyplot.close(figure)
    return True


def _curve(history: Sequence[dict[str, Any]], name: str) -> tuple[list[float], list[float]]:
    points = [(entry["epoch"], entry[name]) for entry in history if name in entry and "epoch" in entry]
    return [x for x, _ in points], [y for _, y in points]


def _logged_metrics(history: Sequence[dict[str, Any]]) -> list[str]:
    """Name what evaluations logged, without the loss and the timings."""
    others = ("loss", "runtime", "samples_per_second", "steps_per_second", "model_preparation_time")
    names = {name for entry in history for name in entry if name.startswith("eval_")}
    return sorted(names - {f"eval_{name}" for name in others})


@_literal_text()
def draw_confusion(file: Path, matrix: Any, labels: Sequence[str], split: str) -> None:
    """Draw counts (true labels, predictions), coloured by their share of the row."""
    size = max(3.6, 0.45 * len(labels) + 2)
    figure, axis = pyplot.subplots(figsize=(size, size), layout="constrained")
    shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axis.set_xticks(range(len(labels)), labels, rotation=45, ha="right")
    axis.set_yticks(range(len(labels)), labels)
    axis.set(xlabel="predicted", ylabel="true", title=split)
    if len(labels) <= MAX_LABELS_WITH_COUNTS:
        for (i, j), count in np.ndenumerate(matrix):
            colour = "white" if shares[i, j] > 0.5 else "black"
            axis.text(j, i, str(count), ha="center", va="center", color=colour, fontsize=9)
    figure.savefig(file, dpi=120)
    pyplot.close(figure)
