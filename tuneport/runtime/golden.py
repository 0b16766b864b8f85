"""Golden cases: running them, and how far their outputs are from torch's."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from tuneport.errors import GateError
from tuneport.runtime.batch import RowOutputs, group_by_input
from tuneport.runtime.runner import ModelRunner
from tuneport.schema.artifact import GoldenCase, Variant

TIE = 2e-3
"""Logits that differ by less than an engine's rounding, on either side, are alike."""
END = -1
"""Stands for the end of an answer, which a longer one has not reached there."""


def golden_outputs(model: ModelRunner, cases: Sequence[GoldenCase]) -> list[list[RowOutputs]]:
    """Run golden cases in the batches that they name; the results of each one's windows, in order."""
    outputs: list[list[RowOutputs]] = []
    for _, batch in itertools.groupby(cases, key=lambda case: case.batch):
        windows = model.task.encode([model.task.parse_input(case.input) for case in batch])
        outputs += group_by_input(model.run_batch([row for rows in windows for row in rows]), windows)
    return outputs


def difference(ours: Sequence[RowOutputs], torchs: Sequence[dict[str, Any]]) -> float:
    """Return the largest |Δ| of an input's outputs; of generated tokens the share that is not torch's.

    Infinite where windows or shapes are not torch's, or where a value is not finite.
    """
    if len(ours) == len(torchs) == 1 and "tokens" in ours[0] and "tokens" in torchs[0]:
        return written_difference(ours[0], torchs[0])
    if len(ours) != len(torchs) or any(a.keys() != b.keys() for a, b in zip(ours, torchs, strict=True)):
        return float("inf")
    largest = 0.0
    for mine, theirs in zip(ours, torchs, strict=True):
        for name, values in mine.items():
            expected = np.asarray(theirs[name], np.float32)
            if values.shape != expected.shape:
                return float("inf")
            with np.errstate(invalid="ignore"):  # inf - inf is not finite either
                gap = np.abs(values - expected)
            largest = max(largest, float(gap.max(initial=0.0))) if np.isfinite(gap).all() else float("inf")
    return largest


def written_difference(ours: RowOutputs, torchs: dict[str, Any]) -> float:
    """Return the share of an answer's tokens that are not torch's, or how far known answers' losses are off if more.

    Where torch's own choice hung on less than `TIE`, another is as right, and what follows it is another text.
    """
    mine, theirs = ([*map(int, each["tokens"]), END] for each in (ours, torchs))
    places = [i for i in range(max(len(mine), len(theirs))) if mine[i : i + 1] != theirs[i : i + 1]]
    margins = torchs.get("margins", ())
    is_tie = bool(places) and places[0] < len(margins) and float(margins[places[0]]) <= TIE
    share = 0.0 if is_tie else len(places) / max(len(mine), len(theirs))
    if "losses" not in torchs:
        return share
    gap = np.abs(np.asarray(ours["losses"]) - np.asarray(torchs["losses"], np.float32))
    return max(share, float(gap.max(initial=0.0))) if np.isfinite(gap).all() else float("inf")


def check_golden(model: ModelRunner, cases: Sequence[GoldenCase], variant: Variant) -> float:
    """Return the largest difference from torch on the golden cases; a GateError if it is over the tolerance."""
    outputs = golden_outputs(model, cases)
    differences = [difference(ours, case.outputs) for ours, case in zip(outputs, cases, strict=True)]
    figure, worst = golden_figure(differences, cases), int(np.argmax(differences))
    if not figure <= variant.evidence.tolerance:
        raise GateError(
            f"variant {variant.name} differs from torch by {figure:.3g}, most on the golden case "
            f"{str(cases[worst].input)[:40]!r}, and {variant.evidence.tolerance:.3g} is allowed",
            "this machine computes it otherwise: export on it, or choose another variant",
        )
    return figure


def golden_figure(differences: Sequence[float], cases: Sequence[GoldenCase]) -> float:
    """Return what golden cases show of a variant: the largest difference, of generated tokens the mean.

    One token that tips over changes all of its answer, so that a quantized model's largest share says nothing.
    """
    is_written = "tokens" in cases[0].outputs[0]
    return float(np.mean(differences) if is_written else max(differences))
