"""The gate: what it measures of a model against torch, and where it draws the line."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kit.data import read_rows
from kit.exports import FakeRunner, Prepared

from tuneport.data.sample import Sample
from tuneport.errors import DeviceLost, DeviceOutOfMemory, EngineError, GateError
from tuneport.runtime.batch import EncodedInput, RowOutputs
from tuneport.runtime.loading import open_task
from tuneport.runtime.tasks.regression import Task as Regression
from tuneport.schema.artifact import GoldenCase, Manifest, Metric, Parity
from tuneport.stages.export.checkpoint import open_checkpoint
from tuneport.stages.export.families import export_family
from tuneport.stages.export.gate import Gate, Measurement, Thresholds, check
from tuneport.stages.export.tasks.text_classification import Task
from tuneport.stages.export.variants import VARIANTS
from tuneport.tasks import all_tasks

ENCODER, GENERATIVE = export_family("text-classification"), export_family("translation")
FP32 = VARIANTS["fp32"].thresholds(0.01, 1.0, ENCODER, is_unlabelled=False)
INT8 = VARIANTS["int8"].thresholds(0.01, 1.0, ENCODER, is_unlabelled=False)


def measured(*, difference: float = 0.0, agreement: float = 1.0, value: float = 0.9, torch: float = 0.9) -> Measurement:
    parity = Parity(golden_cases=1, texts=1, max_abs_diff=difference, golden_max_abs_diff=0.0, agreement=agreement)
    return Measurement(parity, Metric(name="accuracy", value=value, torch=torch))


def test_both_variants_of_a_sound_model_pass_with_their_evidence(manifest: Manifest) -> None:
    fp32, int8 = manifest.variant("fp32").evidence, manifest.variant("int8").evidence
    assert fp32.parity.max_abs_diff <= 1e-3
    assert fp32.parity.agreement == 1.0
    assert int8.parity.agreement >= 0.99
    assert fp32.parity.max_abs_diff < int8.parity.max_abs_diff
    assert fp32.metric is not None
    assert fp32.metric.torch == pytest.approx(0.9)  # every tenth label is wrong on purpose
    assert not manifest.rejected


def test_golden_cases_cover_what_breaks_models(tiny_artifact: Path) -> None:
    cases = read_rows(tiny_artifact / "golden.jsonl")
    texts = [case["input"] for case in cases]
    lengths = {f"length-{length}" for length in (8, 16, 32, 48)}
    assert {"one-word", "mixed", "full-length", "too-long", "awkward", *lengths} == {case["batch"] for case in cases}
    assert "" in texts
    assert any(not text.isascii() for text in texts)
    assert len({len(case["input"]) for case in cases if case["batch"] == "mixed"}) > 3
    assert all(len(window["logits"]) == 3 for case in cases for window in case["outputs"])


@pytest.mark.parametrize(
    ("thresholds", "good", "bad"),
    [
        (FP32, {"difference": 1e-3}, {"difference": 1.001e-3}),
        (FP32, {"agreement": 1.0}, {"agreement": 0.9999}),
        (INT8, {"agreement": 0.99}, {"agreement": 0.9899}),
        (INT8, {"value": 0.89, "torch": 0.90}, {"value": 0.8899, "torch": 0.90}),
        (INT8, {"value": 0.95, "torch": 0.90}, {"value": 0.0, "torch": 0.90}),
        (INT8, {"difference": 9.0}, {"difference": float("nan")}),
        (INT8, {"difference": 9.0}, {"difference": float("inf")}),
        (FP32, {}, {"difference": float("nan")}),
        (FP32, {}, {"agreement": float("nan")}),
        (Thresholds(None, 0.0, 0.0), {"value": 0.9}, {"value": 0.8999}),
    ],
)
def test_a_limit_that_is_met_exactly_passes_and_the_next_value_fails(
    thresholds: Thresholds, good: dict[str, float], bad: dict[str, float]
) -> None:
    check(measured(**good), thresholds)
    with pytest.raises(GateError):
        check(measured(**bad), thresholds)


@pytest.mark.parametrize("total", [100, 300, 700, 1000])
def test_a_drop_of_exactly_one_point_passes_whatever_its_rounding(total: int) -> None:
    for right in range(total // 100, total + 1):
        value, torch = (right - total // 100) / total, right / total
        check(measured(value=value, torch=torch), VARIANTS["int8"].thresholds(0.01, 1.0, ENCODER, is_unlabelled=False))


def test_the_error_says_what_agreement_of_scores_means() -> None:
    with pytest.raises(GateError) as caught:
        check(measured(agreement=0.0), INT8, Regression.agreement_means)
    meaning = "inputs whose scores are within 1% of torch's, of scores below 1 within 0.01"
    assert caught.value.problem == f"agreement 0.00% < 99% ({meaning})"


def test_the_error_names_every_figure_beyond_its_threshold() -> None:
    with pytest.raises(GateError) as caught:
        check(measured(difference=2.0, agreement=0.5, value=0.1), FP32)
    assert caught.value.problem.count(",") == 2


def test_the_difference_allowed_to_exact_variants_grows_with_the_scale_of_outputs() -> None:
    thresholds = VARIANTS["fp32"].thresholds(0.01, 50.0, ENCODER, is_unlabelled=False)
    check(measured(difference=0.05), thresholds)
    with pytest.raises(GateError, match=r"max \|Δ\| 0.051 > 0.05"):
        check(measured(difference=0.051), thresholds)


def test_quantized_generative_models_are_limited_by_their_metric_alone() -> None:
    check(
        measured(agreement=0.1, difference=0.9), VARIANTS["int8"].thresholds(0.01, 1.0, GENERATIVE, is_unlabelled=False)
    )
    with pytest.raises(GateError, match="accuracy falls by"):
        check(measured(value=0.88), VARIANTS["int8"].thresholds(0.01, 1.0, GENERATIVE, is_unlabelled=False))


def generated(name: str, *, torch: float, value: float, agreement: float = 0.0) -> Measurement:
    """Return what the gate measures of a variant of a generative model."""
    spec = next(each for task in all_tasks().values() for each in task.metrics if each.name == name)
    metric = Metric(name=name, value=value, torch=torch, lower_is_better=spec.lower_is_better)
    return Measurement(measured(agreement=agreement).parity, metric, spec.empty_score)


@pytest.mark.parametrize(("name", "torch", "empty"), [("chrf", 0.01, 0.0), ("wer", 0.99, 1.0), ("wer", 1.6, 1.0)])
def test_where_empty_outputs_would_pass_a_variant_must_agree_with_torch(name: str, torch: float, empty: float) -> None:
    """torch makes noise or, in speech, almost only errors: a variant that says nothing loses nothing by the metric."""
    int8 = VARIANTS["int8"].thresholds(0.01, 1.0, GENERATIVE, is_unlabelled=False)
    with pytest.raises(GateError, match=rf"own {name} is {torch:.4f}, so that a model that says nothing.*0.00% of"):
        check(generated(name, torch=torch, value=empty), int8)
    check(generated(name, torch=torch, value=torch, agreement=0.99), int8)


def test_the_metric_alone_decides_where_it_would_show_silence() -> None:
    int8 = VARIANTS["int8"].thresholds(0.01, 1.0, GENERATIVE, is_unlabelled=False)
    for name, torch, silent in (("chrf", 0.011, 0.0), ("wer", 0.98, 1.0)):
        check(generated(name, torch=torch, value=torch), int8)
        with pytest.raises(GateError, match=f"{name} (falls|rises) by 0.0"):
            check(generated(name, torch=torch, value=silent), int8)
    check(generated("perplexity", torch=9.0, value=9.0), int8)  # empty outputs have no perplexity
    check(measured(value=0.0, torch=0.0), INT8)  # whose agreement shows it


@pytest.mark.parametrize(
    ("name", "family", "difference", "tolerance"),
    [("fp32", ENCODER, 0.9, 1e-3), ("int8", ENCODER, 0.9, 1.8), ("int8", ENCODER, 0.001, 0.05),
     ("int8", GENERATIVE, 0.9, 0.95)],
)  # fmt: skip
def test_golden_cases_may_differ_twice_as_much_on_another_host(
    name: str, family: Any, difference: float, tolerance: float
) -> None:
    parity = measured().parity.model_copy(update={"golden_max_abs_diff": difference})
    assert VARIANTS[name].tolerance(Measurement(parity, None), 1.0, family) == pytest.approx(tolerance)


def logits(*rows: tuple[float, ...]) -> list[list[RowOutputs]]:
    return [[{"logits": np.array(row, np.float32)}] for row in rows]


@pytest.fixture
def gate(tiny_checkpoint: Path, tiny_artifact: Path, manifest: Manifest) -> Gate:
    """Torch predicts calm and loud for two golden cases and for two texts, both of which are calm in truth."""
    runtime_task = open_task(tiny_artifact, manifest.task, manifest.labels, manifest.processing)
    cases = [
        GoldenCase(batch="b", input="a", outputs=({"logits": list(row)},)) for row in ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0))
    ]
    sample = Sample(["a", "b"], [[0], [0]], None, "validation")
    return Gate(Task(open_checkpoint(tiny_checkpoint)), runtime_task, cases, sample, logits((1, 0, 0), (0, 1, 0)))


def test_the_gate_measures_golden_cases_and_texts_together(gate: Gate) -> None:
    measurement = gate.compare(logits((1, 0.5, 0), (0, 1, 0)), logits((1, 3, 0), (0, 1, 0)))
    assert measurement.parity == Parity(
        golden_cases=2, texts=2, max_abs_diff=3.0, golden_max_abs_diff=0.5, agreement=0.75
    )
    assert measurement.metric == Metric(name="accuracy", value=0.0, torch=0.5)


@pytest.mark.parametrize("outputs", [logits((1, 0), (0, 1, 0)), logits((float("nan"), 0, 0), (0, 1, 0)), [[], []]])
def test_outputs_of_another_shape_or_not_finite_agree_with_nothing(gate: Gate, outputs: list[list[RowOutputs]]) -> None:
    measurement = gate.compare(logits((1, 0, 0), (0, 1, 0)), outputs)
    assert measurement.parity.max_abs_diff == float("inf")
    assert measurement.parity.agreement < 1
    assert measurement.metric is None
    with pytest.raises(GateError, match="not finite or not of torch's shape"):
        check(measurement, Thresholds(None, 0.0, 1.0))


def test_a_runner_is_measured_on_golden_cases_and_on_every_text(prepared: Prepared) -> None:
    gate = prepared.reference.gate
    measurement = gate.measure(FakeRunner(prepared, lambda rows: 0.25))
    assert measurement.parity.max_abs_diff == pytest.approx(0.25, rel=1e-3)
    assert measurement.parity.golden_max_abs_diff == pytest.approx(0.25, rel=1e-3)
    assert (measurement.parity.golden_cases, measurement.parity.texts) == (len(gate.golden), 240)
    assert measurement.parity.agreement == 1  # all logits moved alike
    assert gate.mean_error(FakeRunner(prepared, lambda rows: 0.25)) == pytest.approx(0.25, rel=1e-3)
    assert gate.mean_error(FakeRunner(prepared, lambda rows: float("nan"))) == float("inf")


@pytest.mark.parametrize(("error", "depends"), [(0.0, False), (1e-4, False), (0.5, True)])
def test_outputs_that_depend_on_the_batch_are_told_from_rounding(
    prepared: Prepared, error: float, depends: bool
) -> None:
    runner = FakeRunner(prepared, lambda rows: error * (len(rows) > 1))
    assert prepared.reference.gate.depends_on_batch(runner) == depends


def failing_in_batches(prepared: Prepared, error: Exception) -> FakeRunner:
    def fail(rows: Sequence[EncodedInput]) -> float:
        if len(rows) > 1:
            raise error
        return 0.0

    return FakeRunner(prepared, fail)


def test_a_graph_that_fails_on_batches_runs_rows_alone_and_says_why(prepared: Prepared) -> None:
    lines: list[str] = []
    runner = failing_in_batches(prepared, ValueError("All examples must have the same number of <eos>"))
    assert prepared.reference.gate.depends_on_batch(runner, lines.append)
    [line] = lines
    assert line.startswith("runs rows one at a time")
    assert line.endswith("the same number of <eos>")


@pytest.mark.parametrize("error", [DeviceLost("CUDA failure 700"), DeviceOutOfMemory(64), EngineError("no", "yes")])
def test_a_failure_of_the_device_is_no_property_of_the_graph(prepared: Prepared, error: Exception) -> None:
    with pytest.raises(type(error)):
        prepared.reference.gate.depends_on_batch(failing_in_batches(prepared, error))
