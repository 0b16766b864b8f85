"""Timing in groups: how many models are open at a time, and how groups are related to each other."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from kit.exports import Prepared, count_open_runners, one_round

from tuneport.runtime.batch import EncodedInput, RowOutputs
from tuneport.runtime.runner import ModelRunner
from tuneport.runtime.scheduler import BatchLimits
from tuneport.schema.artifact import Execution, Manifest
from tuneport.schema.torch_setup import REFERENCE, TorchSetup
from tuneport.stages.export import alternatives, groups, turns
from tuneport.stages.export.alternatives import Chosen
from tuneport.stages.export.baselines import Baselines
from tuneport.stages.export.benchmark import measure
from tuneport.stages.export.build import Passed, VariantBuilder
from tuneport.stages.export.config import Objective
from tuneport.stages.export.groups import GroupTimer, Timings, fastest, plan_groups, related, time_in_groups
from tuneport.stages.export.intervals import Samples, half_width, ratio_interval
from tuneport.stages.export.reference import TorchModel
from tuneport.stages.export.results import Measured, to_results
from tuneport.stages.export.target import BenchmarkTarget
from tuneport.stages.export.torch_device import TorchOutOfMemory, as_out_of_memory
from tuneport.stages.export.variants import VARIANTS

ROWS = [EncodedInput([1] * 8, [0] * 8, False)] * 4


@pytest.mark.parametrize(
    ("names", "baselines", "max_open", "expected"),
    [
        ("ab", 2, 4, ["ab"]),
        ("abcd", 2, 4, ["ab", "cd"]),  # and the anchor beside the later ones
        ("abcdefg", 1, 4, ["abc", "de", "fg"]),
        ("abc", 5, 4, ["a", "bc"]),  # torch alone is too much: one variant must be beside it
        ("abcdefg", 2, 9, ["abcdefg"]),
    ],
)
def test_groups_have_few_models(names: str, baselines: int, max_open: int, expected: Sequence[str]) -> None:
    assert ["".join(group) for group in plan_groups([*names], baselines, max_open)] == expected


def measured(seconds: Sequence[float], group: int, setup: TorchSetup | None = None) -> Measured:
    samples = Samples.of(seconds, group)
    return Measured(setup, "fp32", 1024, samples, Samples.of([1000 * each for each in seconds], group))


def test_figures_of_two_groups_are_related_through_the_variant_that_both_have() -> None:
    """The host is 1.5 times as slow in the second group, which must not show."""
    chance = np.random.default_rng(5)
    torch, fast, fast_again, other = (unit * chance.normal(1.0, 0.02, 12) for unit in (8.0, 1.0, 1.5, 6.0))
    first = {REFERENCE: measured(torch, 0, TorchSetup()), "fast": measured(fast, 0)}
    second = {"fast": measured(fast_again, 1), "other": measured(other, 1)}
    results = to_results({**first, **related(second, first, anchor="fast")}, ROWS, 0.05)
    timing, interval = results["other"].timing, results["other"].timing.speed_up_interval
    assert timing.speed_up == pytest.approx(2, rel=0.04)
    assert timing.latency_ms_p50 == pytest.approx(4 * results["fast"].timing.latency_ms_p50, rel=0.04)
    assert interval is not None
    assert interval[0] < timing.speed_up < interval[1]
    # Within a group the comparison is the direct one; across groups the doubts of both add up.
    assert results["fast"].speed_over(results["other"]) == pytest.approx(ratio_interval(other, fast_again), rel=0.02)
    assert half_width(interval) > half_width(results["fast"].speed_over(results[REFERENCE]))


@pytest.mark.parametrize(("seconds", "texts_per_s"), [(1 / 1234.567, 1234.6), (30.0, 0.03333)])
def test_a_model_that_needs_half_a_minute_has_a_speed(seconds: float, texts_per_s: float) -> None:
    result = to_results({"large": measured([seconds] * 8, 0)}, ROWS, 0.05)["large"]
    assert result.timing.texts_per_s == texts_per_s


class PaddedRunner(ModelRunner):
    """Lets a clock advance by what batches cost: their padded tokens and an overhead."""

    supports_streams = True
    streams = 1

    def __init__(self, execution: Execution, clock: "Clock") -> None:
        self.limits, self.single_row_batches = BatchLimits.of(execution), execution.single_row_batches
        self._clock = clock

    def run_batch(self, rows: Sequence[EncodedInput]) -> list[RowOutputs]:
        self._clock.now += self._clock.pace * (20 + self.limits.cost([len(row) for row in rows]))
        return []


class Clock:
    """Stands for the module `time`."""

    now, pace = 0.0, 1e-6

    def perf_counter(self) -> float:
        return self.now


def test_a_variant_has_the_same_speed_in_whatever_group_it_is_timed(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, manifest: Manifest
) -> None:
    """Padding depends on the size of a turn, most of all in small batches, and the host is slower in later groups."""
    clock, opened = Clock(), []
    chance = np.random.default_rng(5)
    rows = [EncodedInput([1] * n, [0] * n, False) for n in chance.integers(5, 200, 200).tolist()]
    model = SimpleNamespace(setup=TorchSetup(), run_batch=PaddedRunner(manifest.variants[0].execution, clock).run_batch)
    monkeypatch.setattr(turns, "time", clock)
    monkeypatch.setattr(groups, "release_memory", lambda: None)
    monkeypatch.setattr(groups, "timed_rows", lambda _: rows)
    monkeypatch.setattr(groups, "honest_baselines", lambda *_: Baselines({REFERENCE: cast("Any", model)}, {}, {}))
    monkeypatch.setattr(groups, "choose_limits", lambda *_: BatchLimits(2048))
    monkeypatch.setattr(groups, "PRECISION", 1.0)  # the clock has no noise: few turns suffice
    monkeypatch.setattr(groups, "measure", lambda targets, *rest, **settings: slower(clock, targets, *rest, **settings))

    def open_runner(_: VariantBuilder, execution: Execution) -> ModelRunner:
        opened.append(execution.max_batch_tokens)
        return PaddedRunner(execution, clock)

    monkeypatch.setattr(VariantBuilder, "open", open_runner)
    batches = {"int8": 1024, "fp32": 512, "fused": 256, "openvino": 128}
    chosen = {
        name: Chosen(manifest.variants[0].execution.model_copy(update={"max_batch_tokens": tokens}), cost)
        for cost, (name, tokens) in enumerate(batches.items())
    }
    alone = chosen["int8"].execution.model_copy(update={"single_row_batches": True})
    chosen["int8"] = Chosen(alone, 0.0)

    builder = prepared.builder(tmp_path)

    def timed(max_open: int) -> Timings:
        monkeypatch.setattr(groups, "MAX_OPEN", max_open)
        return time_in_groups(builder, prepared.reference, (TorchSetup(),), chosen)

    together, apart = timed(9).results, timed(2).results
    assert opened == [1024, 512, 256, 128, 1024, 1024, 512, 1024, 256, 1024, 128]
    for name in (REFERENCE, *batches):
        assert apart[name].timing.texts_per_s == pytest.approx(together[name].timing.texts_per_s, rel=0.01)
        assert apart[name].timing.latency_ms_p50 == pytest.approx(together[name].timing.latency_ms_p50, rel=0.01)


def slower(clock: Clock, targets: Mapping[str, BenchmarkTarget], *rest: Any, **settings: Any) -> dict[str, Measured]:
    clock.pace = 1e-6 * (1 + settings["group"])
    return measure(targets, *rest, **settings)


@pytest.mark.parametrize(("objective", "expected"), [("throughput", "a"), ("latency", "b"), ("size", "a")])
def test_the_anchor_is_the_fastest_of_the_first_group(objective: Objective, expected: str) -> None:
    """Of generative models and for size, the first variant is the smallest, which may be slow."""
    a, b = measured([1.0] * 8, 0), measured([2.0] * 8, 0)
    first = {"a": replace(a, latencies_ms=Samples.of([9.0] * 8)), "b": replace(b, latencies_ms=Samples.of([8.0] * 8))}
    assert fastest(first, objective) == expected


def test_few_models_are_open_at_a_time(prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All at once would take more memory than any other step of an export."""
    builder = prepared.builder(tmp_path)
    passed = builder.build_and_validate("fp32", VARIANTS["fp32"])
    assert isinstance(passed, Passed)
    names = ("fp32", "fused", "int8", "openvino", "pruned")
    chosen = {name: Chosen(passed.candidate.execution, cost) for cost, name in enumerate(names)}
    counts = count_open_runners(monkeypatch)
    monkeypatch.setattr(groups, "MAX_OPEN", 3)
    monkeypatch.setattr(groups, "TIMED_ROWS", 8)
    with one_round():
        timings = time_in_groups(builder, prepared.reference, (TorchSetup(),), chosen)
    assert counts == [1, 2] * 4  # two beside torch, then one after the other with the fastest
    assert list(timings.results) == [REFERENCE, *names]
    assert list(timings.baselines) == [REFERENCE]
    assert all(timings.results[name].timing.baseline == REFERENCE for name in names)


BF16 = TorchSetup(precision="bf16")


class SmallDevice:
    """Lets torch run out of memory beyond so many rows a batch, by setup; counts nothing else."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, most: Mapping[str, int], *, only_beside_others: bool) -> None:
        self.most, self._only_beside_others, self._is_alone = most, only_beside_others, True
        self.sizes: dict[str, list[int]] = {name: [] for name in most}
        run, measure_group = TorchModel._run, GroupTimer._measure

        def limited(model: TorchModel, feeds: Any) -> Any:
            rows, tokens = feeds["input_ids"].shape
            name = model.setup.name
            self.sizes.setdefault(name, []).append(rows)
            with as_out_of_memory(model.setup, f"{rows} inputs of {tokens} tokens", rows):
                if rows > self.most.get(name, rows) and not (self._only_beside_others and self._is_alone):
                    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
            return run(model, feeds)

        def measure_beside_others(*arguments: Any) -> Any:
            self._is_alone = False
            return measure_group(*arguments)

        monkeypatch.setattr(TorchModel, "_run", limited)
        monkeypatch.setattr(GroupTimer, "_measure", measure_beside_others)


def time_on_small_device(
    prepared: Prepared,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    most: Mapping[str, int],
    *,
    only_beside_others: bool = False,
) -> tuple[Timings, SmallDevice]:
    builder = prepared.builder(folder)
    passed = builder.build_and_validate("fp32", VARIANTS["fp32"])
    assert isinstance(passed, Passed)
    monkeypatch.setattr(groups, "TIMED_ROWS", 8)
    with one_round():
        device = SmallDevice(monkeypatch, most, only_beside_others=only_beside_others)
        chosen = {"fp32": Chosen(passed.candidate.execution, 0.0)}
        return time_in_groups(builder, prepared.reference, (TorchSetup(), BF16), chosen), device


@pytest.mark.parametrize("only_beside_others", [False, True])
def test_a_baseline_of_which_no_row_fits_is_left_out_with_its_reason(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, only_beside_others: bool
) -> None:
    """Alone, or beside the other models, which take memory, too."""
    most = {"torch bf16": 0}
    timings, _ = time_on_small_device(prepared, tmp_path, monkeypatch, most, only_beside_others=only_beside_others)
    assert list(timings.results) == [REFERENCE, "fp32"]
    assert list(timings.baselines) == [REFERENCE]
    assert timings.results["fp32"].timing.baseline == REFERENCE
    assert timings.refused["torch bf16"].startswith("it runs out of memory on 1 input")


@pytest.mark.parametrize("only_beside_others", [False, True])
def test_baselines_fall_to_smaller_batches(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, only_beside_others: bool
) -> None:
    most = {REFERENCE: 2, "torch bf16": 1}
    timings, device = time_on_small_device(prepared, tmp_path, monkeypatch, most, only_beside_others=only_beside_others)
    assert set(timings.results) == {REFERENCE, "torch bf16", "fp32"}
    assert timings.refused == {}
    assert max(device.sizes[REFERENCE]) > 2  # it was tried


def test_a_reference_of_which_no_row_fits_ends_the_export_with_the_remedy(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(TorchOutOfMemory, match=r"torch fp32 runs out of memory on 1 input.*--max-length"):
        time_on_small_device(prepared, tmp_path, monkeypatch, {REFERENCE: 0})


def test_timing_lasts_no_longer_than_the_setting_allows(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[float] = []

    def spied(timer: Any) -> Any:
        def run(*rest: Any, **settings: Any) -> Any:
            seen.append(settings["max_seconds"])
            return timer(*rest, **settings)

        return run

    builder = prepared.builder(tmp_path, max_seconds=0.5)
    passed = builder.build_and_validate("fp32", VARIANTS["fp32"])
    assert isinstance(passed, Passed)
    monkeypatch.setattr(groups, "TIMED_ROWS", 4)
    with one_round(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(alternatives, "benchmark", spied(alternatives.benchmark))
        patch.setattr(groups, "measure", spied(groups.measure))
        chosen = {"fp32": alternatives.choose_execution(builder, passed, prepared.reference.gate.rows[:4])}
        time_in_groups(builder, prepared.reference, (TorchSetup(),), chosen)
    assert seen == [0.25, 0.5]
