"""Building one variant: it passes, or it is rejected with its reason and leaves nothing behind."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from kit.exports import FakeRunner, Prepared, count_open_runners, one_round, shift

from tuneport.errors import DeviceLost, DeviceOutOfMemory, EngineError, GateError
from tuneport.runtime.batch import EncodedInput
from tuneport.runtime.runner import ModelRunner
from tuneport.runtime.scheduler import BatchLimits
from tuneport.schema.artifact import Candidate, Execution, Footprint, Manifest, Rejected
from tuneport.stages.export import alternatives, record
from tuneport.stages.export.alternatives import Chosen, best_alternative, choose_execution
from tuneport.stages.export.build import Passed, VariantBuilder
from tuneport.stages.export.graph import Graph
from tuneport.stages.export.intervals import Samples
from tuneport.stages.export.passes.context import BuildContext, Pass
from tuneport.stages.export.results import BenchmarkResult
from tuneport.stages.export.variants import VARIANTS, VariantSpec


def int8_by(graph_pass: Pass) -> VariantSpec:
    """Replace the passes of int8."""
    return replace(VARIANTS["int8"], passes={"encoder": (graph_pass,)})


def reject(builder: VariantBuilder, graph_pass: Pass) -> Rejected:
    outcome = builder.build_and_validate("int8", int8_by(graph_pass))
    assert isinstance(outcome, Rejected)
    assert outcome.name == "int8"
    assert not (builder.folder / "onnx" / "int8").exists()
    return outcome


@pytest.mark.parametrize(
    ("by", "reason"), [(1000.0, "agreement"), (float("nan"), "not finite"), (1000.0, "accuracy falls by")]
)
def test_an_int8_graph_that_loses_labels_is_rejected_with_its_reason(
    prepared: Prepared, tmp_path: Path, by: float, reason: str
) -> None:
    rejected = reject(prepared.builder(tmp_path), shift(by))
    assert reason in rejected.reason
    assert (rejected.parity is None) == (by != by)


def test_an_int8_graph_that_cannot_be_built_is_rejected_with_its_reason(prepared: Prepared, tmp_path: Path) -> None:
    def fail(graph: Graph, context: BuildContext, folder: Path) -> Graph:
        raise ValueError("Unable to find data type for weight")

    assert "Unable to find data type" in reject(prepared.builder(tmp_path), fail).reason


def test_an_int8_graph_that_does_not_load_is_rejected_with_its_reason(prepared: Prepared, tmp_path: Path) -> None:
    def write_no_graph(graph: Graph, context: BuildContext, folder: Path) -> Graph:
        (folder / "model.onnx").write_bytes(b"no graph")
        return Graph(folder, ("model.onnx",))

    assert "cannot load" in reject(prepared.builder(tmp_path), write_no_graph).reason


def test_an_int8_graph_that_fails_when_it_runs_is_rejected_with_its_reason(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(rows: Sequence[EncodedInput]) -> float:
        raise RuntimeError("Non-zero status code returned while running MatMul")

    monkeypatch.setattr(VariantBuilder, "open", lambda *_: FakeRunner(prepared, fail))
    rejected = reject(prepared.builder(tmp_path), shift(0.0))
    assert "it fails when it runs (Non-zero status code" in rejected.reason


def test_a_variant_that_does_not_fit_into_the_devices_memory_is_rejected(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(rows: Sequence[EncodedInput]) -> float:
        raise DeviceOutOfMemory(64)

    monkeypatch.setattr(VariantBuilder, "open", lambda *_: FakeRunner(prepared, fail))
    assert "too little free memory" in reject(prepared.builder(tmp_path), shift(0.0)).reason


def test_a_lost_device_ends_the_export(prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(rows: Sequence[EncodedInput]) -> float:
        raise DeviceLost("CUDA failure 700")

    monkeypatch.setattr(VariantBuilder, "open", lambda *_: FakeRunner(prepared, fail))
    with pytest.raises(DeviceLost):
        prepared.builder(tmp_path).build_and_validate("int8", int8_by(shift(0.0)))


def test_a_disk_that_fills_while_quantizing_is_no_reason_to_reject(prepared: Prepared, tmp_path: Path) -> None:
    def fill_the_disk(graph: Graph, context: BuildContext, folder: Path) -> Graph:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        prepared.builder(tmp_path).build_and_validate("int8", int8_by(fill_the_disk))


def test_fp32_that_fails_ends_the_export(prepared: Prepared, tmp_path: Path) -> None:
    builder = prepared.builder(tmp_path)
    graph = builder.context.fp32
    shift(0.002)(graph, builder.context, graph.folder)
    with pytest.raises(GateError, match=r"fp32 does not answer as torch does: max \|Δ\| 0.002\d* > 0.001"):
        builder.build_and_validate("fp32", VARIANTS["fp32"])


def test_passes_run_in_order_each_on_the_graph_of_the_one_before(prepared: Prepared, tmp_path: Path) -> None:
    builder = prepared.builder(tmp_path)
    spec = replace(VARIANTS["int8"], passes={"encoder": (shift(1000.0), shift(-1000.0))})
    outcome = builder.build_and_validate("int8", spec)
    assert isinstance(outcome, Passed)
    assert outcome.parity.max_abs_diff < 1e-3
    assert [file.path for file in outcome.candidate.execution.files] == ["onnx/int8/model.onnx"]
    assert sorted(path.name for path in (builder.folder / "onnx").iterdir()) == ["fp32", "int8"]
    assert not list(builder.folder.glob("tmp*"))


def open_fake(prepared: Prepared, error: float) -> Callable[[VariantBuilder, Execution], ModelRunner]:
    """Open runners whose outputs are off by `error` for rows that share a batch."""

    def open_runner(builder: VariantBuilder, execution: Execution) -> ModelRunner:
        single = execution.single_row_batches
        return FakeRunner(prepared, lambda rows: error * (len(rows) > 1), single_row_batches=single)

    return open_runner


def test_a_variant_begins_with_the_graph_of_one_that_has_its_first_passes(prepared: Prepared, tmp_path: Path) -> None:
    builder = prepared.builder(tmp_path)
    ran: list[tuple[str, str]] = []

    def copy_as(name: str) -> Pass:
        def copy(graph: Graph, context: BuildContext, folder: Path) -> Graph:
            ran.append((name, graph.folder.name))
            return Graph(Path(shutil.copytree(graph.folder, folder, dirs_exist_ok=True)), graph.files)

        return copy

    first, second, third = copy_as("first"), copy_as("second"), copy_as("third")
    for name, passes in {"a": (first,), "b": (first, second), "c": (first, second, third), "d": (third,)}.items():
        spec = replace(VARIANTS["fused"], passes={"encoder": passes})
        assert isinstance(builder.build_and_validate(name, spec), Passed)
    assert ran == [("first", "fp32"), ("second", "a"), ("third", "b"), ("third", "fp32")]
    shutil.rmtree(tmp_path / "onnx" / "b")  # as if it had failed its gate
    spec = replace(VARIANTS["fused"], passes={"encoder": (first, second, second)})
    assert isinstance(builder.build_and_validate("e", spec), Passed)
    assert [name for name, _ in ran[4:]] == ["second", "second"]


@pytest.mark.parametrize(("error", "runs_alone"), [(0.0, False), (0.5, True)])
def test_a_variant_whose_outputs_depend_on_the_batch_runs_rows_one_at_a_time(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: float, runs_alone: bool
) -> None:
    monkeypatch.setattr(VariantBuilder, "open", open_fake(prepared, error))
    builder = prepared.builder(tmp_path)
    outcome = builder.build_and_validate("int8", int8_by(shift(0.0)))
    assert isinstance(outcome, Passed)
    assert outcome.candidate.execution.single_row_batches == runs_alone
    assert outcome.parity.max_abs_diff < 1e-3


@pytest.mark.parametrize(
    ("single_row_batches", "gain", "streams", "max_batch_tokens"),
    [(False, 1.5, 2, 64), (False, 1.04, 1, 128), (True, 1.5, 2, 1024)],
)
def test_a_variant_records_its_streams_and_its_batches(
    prepared: Prepared,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    single_row_batches: bool,
    gain: float,
    streams: int,
    max_batch_tokens: int,
    manifest: Manifest,
) -> None:
    """Several streams are chosen only if they raise throughput by 5 %; rows that run alone keep the default batch."""
    footprint = Footprint(memory_mib=7.0, cold_start_ms=8.0)
    monkeypatch.setattr(record, "measure_footprint", lambda *_: footprint)
    recorded = manifest.variant("int8")
    execution = recorded.execution.model_copy(update={"max_batch_tokens": 1024, "streams": 1})
    execution = execution.model_copy(update={"single_row_batches": single_row_batches})
    parity, metric, timing = (getattr(recorded.evidence, name) for name in ("parity", "metric", "timing"))
    candidate = Candidate(name="int8", execution=execution)
    passed = Passed(candidate, parity, metric, tolerance=0.1, fp32_parts=("/layer.1",))
    timing = timing.model_copy(update={"texts_per_s": 0.03})  # of a large model: the figure is too coarse for a cost
    faster = timing.model_copy(update={"texts_per_s": gain * timing.texts_per_s})
    seconds, latencies = (Samples.of([each]) for each in (30.0 / gain, 3000.0))
    results = {
        "int8": BenchmarkResult(timing, 128, Samples.of([30.0]), latencies),
        "int8, a stream a core": BenchmarkResult(faster, 64, seconds, latencies),
    }
    builder = prepared.builder(tmp_path)
    runner = FakeRunner(prepared, lambda _: 0.0, single_row_batches=single_row_batches)
    executions = {"int8": execution, "int8, a stream a core": execution.model_copy(update={"streams": 2})}
    opened = [(label, each, runner) for label, each in executions.items()]
    monkeypatch.setattr(alternatives, "_search_batch_sizes", lambda *_: {})
    monkeypatch.setattr(alternatives, "open_alternatives", lambda *_, **__: opened)
    monkeypatch.setattr(alternatives, "benchmark", lambda *_, **__: results)
    chosen = choose_execution(builder, passed, [])
    assert chosen.cost == pytest.approx(30.0 / gain if streams == 2 else 30.0)
    result = results[best_alternative("int8", results, "throughput")]
    (variant,), _ = record.record_variants(builder, ("calm",), [passed], {"int8": result}, {"int8": chosen})
    assert (variant.execution.streams, variant.execution.max_batch_tokens) == (streams, max_batch_tokens)
    assert variant.evidence.timing == (faster if streams == 2 else timing)
    assert variant.evidence.footprint == footprint
    assert (variant.evidence.tolerance, variant.evidence.fp32_parts) == (0.1, ("/layer.1",))


@pytest.mark.parametrize("name", ["fp32", "int8"])
def test_a_variant_that_does_not_open_in_its_own_process_is_rejected_and_fp32_ends_the_export(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, manifest: Manifest, name: str
) -> None:
    def fail(*_: object) -> Footprint:
        raise EngineError("it does not open in a process of its own (no library)", "choose other variants")

    monkeypatch.setattr(record, "measure_footprint", fail)
    builder = prepared.builder(tmp_path)
    (builder.folder / "onnx" / "int8").mkdir()
    recorded = manifest.variant(name)
    candidate, evidence = Candidate(name=name, execution=recorded.execution), recorded.evidence
    passed = [Passed(candidate, evidence.parity, evidence.metric, tolerance=0.1)]
    results, chosen = {name: BenchmarkResult(evidence.timing, 128)}, {name: Chosen(recorded.execution, 1.0)}
    if name == "fp32":
        with pytest.raises(EngineError, match="no library"):
            record.record_variants(builder, ("calm",), passed, results, chosen)
        return
    variants, rejected = record.record_variants(builder, ("calm",), passed, results, chosen)
    assert variants == []
    assert [(each.name, "no library" in each.reason) for each in rejected] == [("int8", True)]
    assert not (builder.folder / "onnx" / "int8").exists()


@pytest.mark.parametrize("fails", ["fp32, a stream a core", "fp32"])
def test_a_way_whose_batches_fail_is_left_out_and_the_plain_one_ends_the_export(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    def choose(name: str, *_: Any) -> BatchLimits:
        if name == fails:
            raise MemoryError("std::bad_alloc")
        return BatchLimits(256)

    lines: list[str] = []
    builder = prepared.builder(tmp_path, lines.append)
    passed = builder.build_and_validate("fp32", VARIANTS["fp32"])
    assert isinstance(passed, Passed)
    monkeypatch.setattr(alternatives, "usable_cores", lambda: 2)
    monkeypatch.setattr(alternatives, "choose_limits", choose)
    counts = count_open_runners(monkeypatch)
    rows = prepared.reference.gate.rows[:8]
    if fails == "fp32":
        with pytest.raises(EngineError, match="std::bad_alloc"):
            choose_execution(builder, passed, rows)
        return
    with one_round():
        chosen = choose_execution(builder, passed, rows)
    assert (chosen.execution.streams, chosen.execution.max_batch_tokens) == (1, 256)
    assert any(line.startswith(f"{fails} is left out: it fails when it runs (std::bad_alloc") for line in lines)
    assert max(counts) == 1  # it is not opened again


def test_no_more_than_the_ways_to_run_one_variant_are_open_while_they_are_compared(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The memory of all variants in all ways at once would be the most that an export needs."""
    builder = prepared.builder(tmp_path)
    passed = [builder.build_and_validate(name, VARIANTS[name]) for name in ("fp32", "int8")]
    monkeypatch.setattr("tuneport.stages.export.alternatives.usable_cores", lambda: 2)
    counts = count_open_runners(monkeypatch)
    with one_round():
        for each in passed:
            assert isinstance(each, Passed)
            choose_execution(builder, each, prepared.reference.gate.rows[:8])
    # Each way alone for its batch size, then side by side; int8 of this model runs one row at a time.
    assert counts == [1, 1, 1, 2, 1, 2]
