"""Run golden cases, and measure how far their outputs are from torch's."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from tuneport.errors import GateError, TuneportError
from tuneport.runtime.batch import RowOutputs, group_by_input
from tuneport.runtime.runner import ModelRunner
from tuneport.schema.artifact import GoldenCase, Variant

TIE = 2e-3
"""Two logits closer than this are a tie: an engine's rounding may order them either way."""
END = -1
"""Stands for the end of a generated text when it is compared with a longer one."""


def golden_outputs(runner: ModelRunner, cases: Sequence[GoldenCase]) -> list[list[RowOutputs]]:
    """Run golden cases in the batches that they name; returns the outputs of each case's windows, in order."""
    outputs: list[list[RowOutputs]] = []
    for _, batch in itertools.groupby(cases, key=lambda case: case.batch):
        windows = runner.task.encode([runner.task.parse_input(case.input) for case in batch])
        outputs += group_by_input(runner.run_batch([row for rows in windows for row in rows]), windows)
    return outputs


def difference(ours: Sequence[RowOutputs], torchs: Sequence[dict[str, Any]]) -> float:
    """Return the largest absolute difference of an input's outputs; of generated tokens, the share that differs.

    Infinite if the windows or shapes differ, or if a value is not finite.
    """
    if len(ours) == len(torchs) == 1 and "tokens" in ours[0] and "tokens" in torchs[0]:
        return generated_difference(ours[0], torchs[0])
    if len(ours) != len(torchs) or any(a.keys() != b.keys() for a, b in zip(ours, torchs, strict=True)):
        return float("inf")
    largest = 0.0
    for our_outputs, torch_outputs in zip(ours, torchs, strict=True):
        for name, values in our_outputs.items():
            try:
                expected = np.asarray(torch_outputs[name], np.float32)
            except (ValueError, TypeError):  # golden.jsonl holds no array of numbers there
                return float("inf")
            if values.shape != expected.shape:
                return float("inf")
            with np.errstate(invalid="ignore"):  # inf - inf is nan, which is not finite either
                gap = np.abs(values - expected)
            largest = max(largest, float(gap.max(initial=0.0))) if np.isfinite(gap).all() else float("inf")
    return largest


def generated_difference(ours: RowOutputs, torchs: dict[str, Any]) -> float:
    """Return the share of a text's tokens that differ, or the largest difference of a reference's losses if larger.

    No token counts as different if the first one that differs was a tie for torch: another choice there is as correct,
    and the rest of the text follows from it.
    """
    our_tokens, torch_tokens = ([*map(int, outputs["tokens"]), END] for outputs in (ours, torchs))
    length = max(len(our_tokens), len(torch_tokens))
    differing = [i for i in range(length) if our_tokens[i : i + 1] != torch_tokens[i : i + 1]]
    margins = torchs.get("margins", ())
    is_tie = bool(differing) and differing[0] < len(margins) and float(margins[differing[0]]) <= TIE
    share = 0.0 if is_tie else len(differing) / length
    if "losses" not in torchs:
        return share
    gap = np.abs(np.asarray(ours["losses"]) - np.asarray(torchs["losses"], np.float32))
    return max(share, float(gap.max(initial=0.0))) if np.isfinite(gap).all() else float("inf")


def check_golden(runner: ModelRunner, cases: Sequence[GoldenCase], variant: Variant) -> float:
    """Return the difference from torch on the golden cases.

    Raises GateError if it is over the variant's tolerance, or if the variant cannot run them.
    """
    try:
        outputs = golden_outputs(runner, cases)
    except TuneportError:
        raise
    except Exception as error:  # engines and tokenizers raise exceptions of any kind
        problem = f"variant {variant.name} cannot run its golden cases ({' '.join(str(error).split())[:200]})"
        raise GateError(problem, "export again, or choose another variant") from error
    differences = [difference(ours, case.outputs) for ours, case in zip(outputs, cases, strict=True)]
    figure, worst = golden_figure(differences, cases), int(np.argmax(differences))
    if not figure <= variant.evidence.tolerance:  # also true for nan
        raise GateError(
            f"variant {variant.name} differs from torch by {figure:.3g}, most on the golden case "
            f"{str(cases[worst].input)[:40]!r}, and {variant.evidence.tolerance:.3g} is allowed",
            "this host computes it differently: export on it, or choose another variant",
        )
    return figure


def golden_figure(differences: Sequence[float], cases: Sequence[GoldenCase]) -> float:
    """Return a variant's figure on the golden cases: the largest difference or, of generated tokens, the mean.

    One token that changes also changes the rest of its text, so that a quantized model's largest share says nothing.
    """
    is_generated = "tokens" in cases[0].outputs[0]
    return float(np.mean(differences) if is_generated else max(differences))
