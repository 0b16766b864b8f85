"""Compare a variant with torch on golden cases and on data, and reject it beyond its thresholds."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np

from tuneport.data.sample import Sample
from tuneport.errors import GateError, TuneportError
from tuneport.runtime.batch import EncodedInput, RowOutputs, group_by_input
from tuneport.runtime.golden import difference, golden_figure, golden_outputs
from tuneport.runtime.runner import ModelRunner
from tuneport.runtime.tasks.base import RuntimeTask
from tuneport.schema.artifact import GoldenCase, Metric, Parity, Shape

from .reference import TorchModel
from .tasks.base import ExportTask

ROUNDING = 1e-9
"""Rounding error of a difference of two metrics."""
EXACT = 1e-3
"""Absolute difference of an output that a change of engine alone may cause."""
BATCH_DEPENDENCE = 0.005
"""As a share of the largest output. Rounding in static int8 reaches a thousandth, a range shared by rows a tenth."""
SAME_TEXTS = 0.99
"""Share of torch's own answers that a variant must give where the metric cannot tell whether it is broken."""
GIVE_DATA = "give some with --data (and --unlabelled, if it has no labels)"
"""What a variant that gives up precision needs."""
BATCH_ROWS = 16
"""Consecutive rows of a batch, of mixed lengths, so that rows are padded far more than in serving."""


@dataclass(frozen=True)
class Thresholds:
    """Limits that a variant must meet."""

    max_abs_diff: float | None
    """Of any output on any row; None for variants of lower precision, which `min_agreement` and `max_drop` limit."""
    min_agreement: float
    max_drop: float
    """How much the task's metric may lose; 0.01 is one point."""

    @classmethod
    def close(cls, min_agreement: float, max_drop: float, *, is_unlabelled: bool) -> Self:
        """Return the limits of a model that is not exact.

        Where data is unlabelled, agreement stands in for the metric: accuracy cannot fall by more than the share of
        predictions that differ.
        """
        least = max(SAME_TEXTS, 1 - max_drop) if is_unlabelled else min_agreement
        return cls(max_abs_diff=None, min_agreement=least, max_drop=max_drop)

    @property
    def rests_on_metric(self) -> bool:
        """Whether nothing but the metric could show that a model is broken."""
        return self.max_abs_diff is None and self.min_agreement == 0


@dataclass(frozen=True)
class Measurement:
    """The parity of a variant with torch, and the task's metric of both."""

    parity: Parity
    metric: Metric | None
    empty_score: float | None = None
    """The metric of empty outputs; see `MetricSpec`."""
    unlabelled_agreement: float | None = None
    """Agreement on data without targets alone, since golden cases say nothing of a metric; None with targets."""

    @property
    def empty_drop(self) -> float:
        """How much empty outputs would lose against torch; infinite where that is not known."""
        if self.metric is None or self.empty_score is None:
            return float("inf")
        return self.metric.model_copy(update={"value": self.empty_score}).drop


class Gate:
    """Holds torch's outputs on golden cases and data, and measures other models against them."""

    def __init__(
        self,
        task: ExportTask,
        runtime_task: RuntimeTask,
        golden: Sequence[GoldenCase],
        sample: Sample,
        expected: Sequence[Sequence[RowOutputs]],
    ) -> None:
        """`expected` has torch's outputs: of each input of the sample, those of each window."""
        self.golden = golden
        self.parsed_inputs = [runtime_task.parse_input(each) for each in sample.inputs]
        self.windows = runtime_task.encode(self.parsed_inputs) if self.parsed_inputs else []
        self.expected = expected
        self._task = task
        self._runtime_task = runtime_task
        self._targets = sample.targets
        self._torch_score = self.score(expected)
        self._largest = max(
            (float(np.abs(values).max(initial=0)) for each in expected for row in each for values in row.values()),
            default=1,
        )
        # Logits have a scale of about 1, outputs of regression the scale of the data.
        is_regression = task.processing().problem_type == "regression"
        self.unit = max(1.0, self._largest) if is_regression else 1.0
        """The scale of outputs; exact variants may differ by `EXACT` times this."""
        self._golden_parsed = [runtime_task.parse_input(case.input) for case in golden]
        self._golden_windows = [runtime_task.encode([each])[0] for each in self._golden_parsed]

    @property
    def is_unlabelled(self) -> bool:
        """Whether the data has no targets, so that there is no metric and agreement decides."""
        return bool(self.parsed_inputs) and not self._targets

    @property
    def rows(self) -> list[EncodedInput]:
        """The rows of all inputs of the sample, in order."""
        return [row for windows in self.windows for row in windows]

    @property
    def golden_rows(self) -> list[EncodedInput]:
        """The rows of all golden cases, in order."""
        return [row for windows in self._golden_windows for row in windows]

    def depends_on_batch(self, runner: ModelRunner, report: Callable[[str], object] = lambda _: None) -> bool:
        """Tell whether a row's outputs depend on the other rows of its batch by more than rounding explains.

        Outputs of dynamic quantization do, because it computes one range of activations for the whole batch. BART's
        classifier fails if the rows of a batch have different numbers of end tokens; `report` gets that error. What the
        device's failure causes (DeviceLost, DeviceOutOfMemory) is raised.
        """
        rows = (self.rows or self.golden_rows)[:BATCH_ROWS]
        alone = [runner.run_batch([row]) for row in rows]
        try:
            runner.run_batch(self.golden_rows[-BATCH_ROWS:])  # edge cases, such as special tokens within a text
            runner.run_batch(rows)
        except TuneportError:
            raise
        except Exception as error:  # of the engine, which raises exceptions of any kind
            report(f"runs rows one at a time, because a batch of several fails: {' '.join(str(error).split())[:200]}")
            return True
        differences = [difference([outputs], one) for outputs, one in zip(runner.run_batch(rows), alone, strict=True)]
        return max(differences, default=0.0) > BATCH_DEPENDENCE * self._largest

    def golden_difference(self, runner: ModelRunner) -> float:
        """Return a runner's figure on the golden cases, as `verify` and serving's self-check compute it."""
        pairs = zip(golden_outputs(runner, self.golden), self.golden, strict=True)
        return golden_figure([difference(ours, case.outputs) for ours, case in pairs], self.golden)

    def shape_difference(self, runner: ModelRunner, plain: ModelRunner, shapes: Sequence[Shape]) -> float:
        """Return how far a variant's outputs are from those of its plain way, on a full batch of each shape.

        Every stream runs every shape.
        """
        largest = 0.0
        for shape in shapes:
            rows = self._rows_of(shape)
            expected = plain.run_batch(rows)
            # Streams take batches in turn.
            for outputs in (runner.run_batch(rows) for _ in range(runner.streams)):
                differences = (difference([ours], [theirs]) for ours, theirs in zip(outputs, expected, strict=True))
                largest = max(largest, *differences)
        return largest

    def _rows_of(self, shape: Shape) -> list[EncodedInput]:
        """Return real rows that make a batch of a shape: the first one repeats its tokens up to the full length."""
        count, length = shape
        real = self.rows or self.golden_rows
        rows = [real[i % len(real)] for i in range(count)]
        full = [i % len(rows[0]) for i in range(length)]
        first = replace(rows[0], ids=[rows[0].ids[i] for i in full], type_ids=[rows[0].type_ids[i] for i in full])
        return [first, *(replace(row, ids=row.ids[:length], type_ids=row.type_ids[:length]) for row in rows[1:])]

    def torch_logits(self) -> Any:
        """Stack torch's logits on the sample, float32 (inputs, labels); for tasks with one row for each input."""
        return np.stack([each[0]["logits"] for each in self.expected]) if self.expected else np.zeros((0, 0))

    def mean_error(self, runner: ModelRunner, count: int = 64) -> float:
        """Return the mean |Δ| of a variant's outputs on the first `count` inputs; infinite if one is not finite."""
        rows = [row for windows in self.windows[:count] for row in windows]
        expected = [outputs for each in self.expected[:count] for outputs in each]
        errors = [
            np.abs(values - torch_outputs[name]).mean()
            for outputs, torch_outputs in zip(runner.run(rows), expected, strict=True)
            for name, values in outputs.items()
        ]
        mean = float(np.mean(errors))
        return mean if np.isfinite(mean) else float("inf")

    def measure(self, runner: ModelRunner) -> Measurement:
        """Run a variant on golden cases and, in batches of mixed lengths, on the sample, and compare it with torch."""
        golden = golden_outputs(runner, self.golden)
        rows = self.rows
        starts = range(0, len(rows), BATCH_ROWS)
        mixed = [outputs for at in starts for outputs in runner.run_batch(rows[at : at + BATCH_ROWS])]
        return self.compare(golden, group_by_input(mixed, self.windows))

    def measure_torch(self, model: TorchModel) -> Measurement:
        """Measure another torch model, such as one of lower precision, in the same way."""
        golden = model.outputs(self._runtime_task, self._golden_parsed)
        return self.compare(golden, model.outputs(self._runtime_task, self.parsed_inputs))

    def compare(self, golden: Sequence[Sequence[RowOutputs]], outputs: Sequence[Sequence[RowOutputs]]) -> Measurement:
        """Compare outputs on golden cases and on the sample, each by input and window, with torch's."""
        golden_expected = [[_arrays(window) for window in case.outputs] for case in self.golden]
        golden_differences = [difference(*pair) for pair in zip(golden, golden_expected, strict=True)]
        differences = [difference(*pair) for pair in zip(outputs, self.expected, strict=True)]
        of_golden = self._agreements(self._golden_parsed, self._golden_windows, golden, golden_expected)
        of_data = self._agreements(self.parsed_inputs, self.windows, outputs, self.expected)
        parity = Parity(
            golden_cases=len(golden),
            texts=len(outputs),
            max_abs_diff=max(golden_differences + differences),
            golden_max_abs_diff=golden_figure(golden_differences, self.golden),
            agreement=float(np.mean(of_golden + of_data)),
        )
        score = self.score(outputs) if np.isfinite(parity.max_abs_diff) else None
        if score is None or self._torch_score is None:
            return Measurement(
                parity, None, unlabelled_agreement=float(np.mean(of_data)) if self.is_unlabelled else None
            )
        spec = self._task.metric
        metric = Metric(name=spec.name, value=score, torch=self._torch_score, lower_is_better=spec.lower_is_better)
        return Measurement(parity, metric, empty_score=spec.empty_score)

    def score(self, results: Sequence[Sequence[RowOutputs]]) -> float | None:
        """Compute the task's metric of outputs on the sample; None without data."""
        if not self._targets:
            return None
        return self._task.score(self._runtime_task, self.parsed_inputs, self.windows, results, self._targets)

    def _agreements(self, parsed_inputs: Any, windows: Any, outputs: Any, torch_outputs: Any) -> list[bool]:
        """Tell for each input whether its prediction is equivalent to torch's.

        Outputs within `EXACT` agree without decoding: their predictions differ only where torch's best two are tied.
        """
        parameters = self._runtime_task.parameters()
        agreements = []
        for parsed_input, rows, *both in zip(parsed_inputs, windows, outputs, torch_outputs, strict=True):
            largest = difference(*both)
            if largest <= EXACT * self.unit or not np.isfinite(largest):
                agreements.append(bool(np.isfinite(largest)))
                continue
            predictions = [self._runtime_task.decode(parsed_input, rows, each, parameters) for each in both]
            agreements.append(self._runtime_task.is_equivalent(*predictions))
        return agreements


def check(measurement: Measurement, thresholds: Thresholds, agreement_means: str = RuntimeTask.agreement_means) -> None:
    """Raise a GateError that names every figure beyond its threshold."""
    parity, metric = measurement.parity, measurement.metric
    failures = []
    # Written as "not …≤…": a NaN must fail, and it compares false with everything.
    if thresholds.max_abs_diff is not None and not parity.max_abs_diff <= thresholds.max_abs_diff:
        failures.append(f"max |Δ| {parity.max_abs_diff:.3g} > {thresholds.max_abs_diff:g}")
    if not np.isfinite(parity.max_abs_diff):
        failures.append("some outputs are not finite or not of torch's shape")
    of_data = measurement.unlabelled_agreement
    agreement = parity.agreement if of_data is None else min(parity.agreement, of_data)
    if not agreement >= thresholds.min_agreement:
        least = f"{100 * thresholds.min_agreement:g}%"
        failures.append(f"agreement {agreement:.2%} < {least} ({agreement_means})")
    # The drop is a difference of two floats: rounding may lift it just above the limit.
    if metric is not None and not metric.drop <= thresholds.max_drop + ROUNDING:
        direction = "rises" if metric.lower_is_better else "falls"
        failures.append(f"{metric.name} {direction} by {metric.drop:.4f} > {thresholds.max_drop:g}")
    is_informative = measurement.empty_drop > thresholds.max_drop + ROUNDING
    if metric is not None and thresholds.rests_on_metric and not is_informative and parity.agreement < SAME_TEXTS:
        failures.append(
            f"torch's own {metric.name} is {metric.torch:.4f}, so that a model that says nothing would not lose "
            f"{thresholds.max_drop:g}, and only {parity.agreement:.2%} of the answers are torch's; "
            "give data that the model was trained for, or a smaller --max-drop"
        )
    if failures:
        raise GateError(", ".join(failures), "see the manifest for the evidence")


def _arrays(outputs: dict[str, Any]) -> RowOutputs:
    return {name: np.asarray(values, np.float32) for name, values in outputs.items()}
