"""The gate: a variant's answers against torch's, on golden cases and on real data. A verdict, not a warning."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from export.files import GateError
from export.manifest import GoldenCase, Metric, Parity
from export.reference import TorchModel
from export.sample import Sample
from export.tasks import Task
from serve.batcher import Result
from serve.model import Model, difference, golden_figure, golden_outputs, group
from serve.tasks import Task as ServingTask
from serve.tokenizer import Row

ROUNDING = 1e-9
EXACT = 1e-3
"""|Δ| of an output that a change of engine alone may bring."""
TIPPING = 0.005
"""Share of the largest output: a value of static int8 that tips over is a thousandth, another row's range a tenth."""
BATCH = 16
"""Rows of a batch, in order of arrival: mixed lengths, as serving would not pair them."""


@dataclass(frozen=True)
class Rule:
    """What a variant must keep to."""

    max_abs_diff: float | None
    """Of an output on every row; None where precision is given up on purpose and answers count instead."""
    min_agreement: float
    max_drop: float
    """What the task's metric may lose, 0.01 being one point."""


@dataclass(frozen=True)
class Evidence:
    """What was measured of one variant."""

    parity: Parity
    metric: Metric | None


class Gate:
    """Torch's answers to golden cases and real data, and how far others are from them."""

    def __init__(
        self,
        task: Task,
        serving: ServingTask,
        golden: Sequence[GoldenCase],
        sample: Sample,
        expected: Sequence[Sequence[Result]],
    ) -> None:
        """`expected` is torch's: the outputs of each window of each input of the sample."""
        self.golden = golden
        self.given = [serving.read(each) for each in sample.inputs]
        self.windows = serving.encode(self.given) if self.given else []
        self._task = task
        self._serving = serving
        self._targets = sample.targets
        self._expected = expected
        self._torch_score = self.score(expected)
        # Logits have a scale of their own; regression has that of its data.
        self._largest = max(
            (float(np.abs(values).max(initial=0)) for each in expected for r in each for values in r.values()),
            default=1,
        )
        self.unit = max(1.0, self._largest) if task.processing().problem_type == "regression" else 1.0
        """What an output's difference is measured against."""
        self._golden_given = [serving.read(case.input) for case in golden]
        self._golden_windows = [serving.encode([each])[0] for each in self._golden_given]

    @property
    def rows(self) -> list[Row]:
        """The rows of all inputs of the sample, in order."""
        return [row for windows in self.windows for row in windows]

    def rows_to_time(self, count: int) -> list[Row]:
        """Return rows of the sample, or of golden cases where there is none, for a stopwatch."""
        if self._task.processing().generation is None:
            return (self.rows or self.golden_rows)[:count]
        from export.generative import rows_to_time

        return rows_to_time((self.rows or self.golden_rows)[:count], self._expected)

    @property
    def golden_rows(self) -> list[Row]:
        """The rows of all golden cases, in order."""
        return [row for windows in self._golden_windows for row in windows]

    def depends_on_batch(self, model: Model) -> bool:
        """Tell whether a row's outputs depend on the rows beside it by more than rounding explains.

        Dynamic quantization does: it takes the range of a whole batch for the range of each row.
        """
        rows = (self.rows or self.golden_rows)[:BATCH]
        alone = [model.run_batch([row]) for row in rows]
        gaps = [difference([mine], theirs) for mine, theirs in zip(model.run_batch(rows), alone, strict=True)]
        return max(gaps, default=0.0) > TIPPING * self._largest

    def torch_logits(self) -> Any:
        """Stack torch's logits on the sample, (inputs, labels), for tasks with one row an input."""
        return np.stack([each[0]["logits"] for each in self._expected]) if self._expected else np.zeros((0, 0))

    def mean_error(self, model: Model, count: int = 64) -> float:
        """Return the mean |Δ| of a variant's outputs on some of the sample; infinite if one is not finite."""
        rows = [row for windows in self.windows[:count] for row in windows]
        expected = [result for each in self._expected[:count] for result in each]
        gaps = [
            np.abs(values - theirs[name]).mean()
            for mine, theirs in zip(model.run(rows), expected, strict=True)
            for name, values in mine.items()
        ]
        mean = float(np.mean(gaps))
        return mean if np.isfinite(mean) else float("inf")

    def examine(self, model: Model) -> Evidence:
        """Run a variant as serving would, and as it would not: the rows in mixed-length batches, as they come."""
        golden = golden_outputs(model, self.golden)
        rows = self.rows
        mixed = [result for at in range(0, len(rows), BATCH) for result in model.run_batch(rows[at : at + BATCH])]
        return self.compare(golden, group(mixed, self.windows))

    def compare_torch(self, model: TorchModel) -> Evidence:
        """Measure another torch model, of lower precision say, the same way."""
        return self.compare(model.outputs(self._serving, self._golden_given), model.outputs(self._serving, self.given))

    def compare(self, golden: Sequence[Sequence[Result]], texts: Sequence[Sequence[Result]]) -> Evidence:
        """Measure a variant's outputs on golden cases and on the sample against torch's."""
        torchs = [[_arrays(window) for window in case.outputs] for case in self.golden]
        golden_gaps = [difference(*pair) for pair in zip(golden, torchs, strict=True)]
        gaps = [difference(*pair) for pair in zip(texts, self._expected, strict=True)]
        same = self._same(self._golden_given, self._golden_windows, golden, torchs)
        same += self._same(self.given, self.windows, texts, self._expected)
        parity = Parity(
            golden_cases=len(golden),
            texts=len(texts),
            max_abs_diff=max(golden_gaps + gaps),
            golden_max_abs_diff=golden_figure(golden_gaps, self.golden),
            agreement=float(np.mean(same)),
        )
        score = self.score(texts) if np.isfinite(parity.max_abs_diff) else None
        if score is None or self._torch_score is None:
            return Evidence(parity, None)
        lower = self._task.lower_is_better
        metric = Metric(name=self._task.metric, value=score, torch=self._torch_score, lower_is_better=lower)
        return Evidence(parity, metric)

    def score(self, results: Sequence[Sequence[Result]]) -> float | None:
        """Compute the task's metric of raw results on the sample; None without data."""
        if not self._targets:
            return None
        return self._task.score(self._serving, self.given, self.windows, results, self._targets)

    def _same(self, given: Any, windows: Any, ours: Any, torchs: Any) -> list[bool]:
        parameters = self._serving.parameters()
        same = []
        for each, rows, mine, theirs in zip(given, windows, ours, torchs, strict=True):
            gap = difference(mine, theirs)
            # Outputs so near that only a tie of torch's can tell them apart, or none that could be decoded.
            if gap <= EXACT * self.unit or not np.isfinite(gap):
                same.append(bool(np.isfinite(gap)))
                continue
            predictions = [self._serving.decode(each, rows, results, parameters) for results in (mine, theirs)]
            same.append(self._serving.same(*predictions))
        return same


def judge(evidence: Evidence, rule: Rule) -> None:
    """Raise a GateError that names each figure which breaks the rule."""
    parity, metric = evidence.parity, evidence.metric
    broken = []
    # Written as "not …≤…": a NaN must break the rule, and it compares false with everything.
    if rule.max_abs_diff is not None and not parity.max_abs_diff <= rule.max_abs_diff:
        broken.append(f"max |Δ| {parity.max_abs_diff:.3g} > {rule.max_abs_diff:g}")
    if not np.isfinite(parity.max_abs_diff):
        broken.append("some outputs are not finite or not of torch's shape")
    if not parity.agreement >= rule.min_agreement:
        broken.append(f"agreement {parity.agreement:.2%} < {rule.min_agreement:.0%}")
    # The drop is a difference of two floats, which may round up past the limit that it meets exactly.
    if metric is not None and not metric.drop <= rule.max_drop + ROUNDING:
        moved = "rises" if metric.lower_is_better else "falls"
        broken.append(f"{metric.name} {moved} by {metric.drop:.4f} > {rule.max_drop:g}")
    if broken:
        raise GateError(", ".join(broken), "see the manifest for the evidence")


def _arrays(outputs: dict[str, Any]) -> Result:
    return {name: np.asarray(values, np.float32) for name, values in outputs.items()}
