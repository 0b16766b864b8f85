"""Whether variants answer as the reference does on the rows that step `speed` times."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tuneport.runtime.batch import EncodedInput
from tuneport.runtime.runner import ModelRunner
from tuneport.schema.artifact import Variant
from tuneport.stages.export.reference import TorchModel

RunBatch = Callable[[Sequence[EncodedInput]], Any]
TOLERANCE_FACTOR, MIN_TOLERANCE = 4.0, 0.2
"""Random tokens are less like the data than the golden cases that a variant's tolerance is measured on."""
MIN_AGREEMENT = 0.99


def compare(
    reference: TorchModel,
    runners: Mapping[str, ModelRunner],
    variants: Sequence[Variant],
    batches: Sequence[Sequence[EncodedInput]],
) -> tuple[dict[str, float | None], dict[str, str]]:
    """Return each variant's largest difference from the reference, and why those are wrong that are."""
    expected = [_outputs(reference.run_batch, batch) for batch in batches]
    differences: dict[str, float | None] = {}
    wrong: dict[str, str] = {}
    for variant in variants:
        found = [_outputs(runners[variant.name].run_batch, batch) for batch in batches]
        if not all(np.isfinite(each).all() for each in found):
            differences[variant.name], wrong[variant.name] = None, "some outputs are not finite"
            continue
        pairs = list(zip(found, expected, strict=True))
        largest = max(float(np.abs(ours - torchs).max()) for ours, torchs in pairs)
        agreement = float(np.mean([_agreement(ours, torchs) for ours, torchs in pairs]))
        limit = max(MIN_TOLERANCE, TOLERANCE_FACTOR * variant.evidence.tolerance)
        differences[variant.name] = round(largest, 7)
        if largest > limit or agreement < MIN_AGREEMENT:
            wrong[variant.name] = f"|Δ| {largest:.3g} (limit {limit:.3g}), agreement {agreement:.1%}"
    return differences, wrong


def _outputs(run_batch: RunBatch, batch: Sequence[EncodedInput]) -> Any:
    """Return the first output of a batch, float32 (rows, values), of a variant's runner or of torch."""
    found = run_batch(batch)
    if isinstance(found, dict):  # torch's, stacked
        return np.asarray(next(iter(found.values())))
    return np.stack([next(iter(row.values())) for row in found])


def _agreement(ours: Any, torchs: Any) -> float:
    """Return the share of rows with the reference's label; a tie of the reference agrees with either."""
    best = torchs.max(-1)
    chosen = np.take_along_axis(torchs, ours.argmax(-1)[..., None], -1)[..., 0]
    return float(np.mean(best - chosen <= MIN_TOLERANCE))
