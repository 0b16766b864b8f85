"""The gate: a variant's answers against torch's, on golden cases and on real text. A verdict, not a warning."""

from dataclasses import dataclass

import numpy as np

from export.files import GateError
from export.manifest import Metric, Parity
from serve.engines import Output
from serve.tasks.text_classification import same_labels

ROUNDING = 1e-9


@dataclass(frozen=True)
class Rule:
    """What a variant must keep to."""

    max_abs_diff: float | None
    """|Δlogit| on every row; None where precision is given up on purpose and labels count instead."""
    min_label_agreement: float
    max_drop: float
    """Accuracy that may be lost, 0.01 being one point."""


@dataclass(frozen=True)
class Evidence:
    """What was measured of one variant."""

    parity: Parity
    metric: Metric | None


def compare(golden: tuple[Output, Output], texts: tuple[Output, Output], targets: list[int]) -> Evidence:
    """Measure a variant's logits against torch's: (variant, torch) on golden cases and on validation texts.

    Logits are float32 (rows, labels); `targets` are the true labels of the texts, empty without data.
    """
    ours, torchs = (np.concatenate(both) for both in zip(golden, texts, strict=True))
    parity = Parity(
        golden_cases=len(golden[0]),
        texts=len(texts[0]),
        max_abs_diff=_max_abs_diff(ours, torchs),
        golden_max_abs_diff=_max_abs_diff(*golden),
        label_agreement=float(np.mean(same_labels(ours, torchs))),
    )
    if not targets:
        return Evidence(parity, None)
    scores = [float(np.mean(logits.argmax(-1) == np.array(targets))) for logits in texts]
    return Evidence(parity, Metric(name="accuracy", value=scores[0], torch=scores[1]))


def judge(evidence: Evidence, rule: Rule) -> None:
    """Raise a GateError that names each figure which breaks the rule."""
    parity, metric = evidence.parity, evidence.metric
    broken = []
    # Written as "not …≤…": a NaN must break the rule, and it compares false with everything.
    if rule.max_abs_diff is not None and not parity.max_abs_diff <= rule.max_abs_diff:
        broken.append(f"max |Δlogit| {parity.max_abs_diff:.3g} > {rule.max_abs_diff:g}")
    if not np.isfinite(parity.max_abs_diff):
        broken.append("some logits are not finite")
    if not parity.label_agreement >= rule.min_label_agreement:
        broken.append(f"label agreement {parity.label_agreement:.2%} < {rule.min_label_agreement:.0%}")
    # The drop is a difference of two floats, which may round up past the limit that it meets exactly.
    if metric is not None and not metric.drop <= rule.max_drop + ROUNDING:
        broken.append(f"{metric.name} falls by {metric.drop:.4f} > {rule.max_drop:g}")
    if broken:
        raise GateError(", ".join(broken), "see the manifest for the evidence")


def _max_abs_diff(ours: Output, torchs: Output) -> float:
    return float(np.abs(ours - torchs).max()) if len(ours) else 0.0
