"""Timing in groups: how many models are open at a time, and how groups are related to each other."""

import weakref
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from kit.exports import Prepared, one_round

from tuneport.runtime.batch import EncodedInput
from tuneport.runtime.runner import ModelRunner
from tuneport.schema.artifact import Execution
from tuneport.schema.torch_setup import REFERENCE, TorchSetup
from tuneport.stages.export import groups
from tuneport.stages.export.alternatives import Chosen
from tuneport.stages.export.build import Passed, VariantBuilder
from tuneport.stages.export.groups import plan_groups, related, time_in_groups
from tuneport.stages.export.intervals import Samples, half_width, ratio_interval
from tuneport.stages.export.results import Measured, to_results
from tuneport.stages.export.variants import VARIANTS

ROWS = [EncodedInput([1] * 8, [0] * 8, False)] * 4


@pytest.mark.parametrize(
    ("names", "baselines", "max_open", "expected"),
    [
        ("ab", 2, 4, ["ab"]),
        ("abcd", 2, 4, ["ab", "acd"]),
        ("abcdefg", 1, 4, ["abc", "ade", "afg"]),
        ("abc", 5, 4, ["a", "abc"]),  # torch alone is too much: one variant must be beside it
        ("abcdefg", 2, 9, ["abcdefg"]),
    ],
)
def test_the_fastest_variant_is_in_every_group(
    names: str, baselines: int, max_open: int, expected: Sequence[str]
) -> None:
    assert ["".join(group) for group in plan_groups([*names], baselines, max_open)] == expected


def measured(seconds: Sequence[float], group: int, torch: TorchSetup | None = None) -> Measured:
    samples = Samples.of(seconds, group)
    return Measured(torch, "fp32", 1024, samples, Samples.of([1000 * each for each in seconds], group))


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


def test_few_models_are_open_at_a_time(prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All at once would take more memory than any other step of an export."""
    builder = prepared.builder(tmp_path)
    passed = builder.build_and_validate("fp32", VARIANTS["fp32"])
    assert isinstance(passed, Passed)
    names = ("fp32", "fused", "int8", "openvino", "pruned")
    chosen = {name: Chosen(passed.candidate.execution, cost) for cost, name in enumerate(names)}
    opened: weakref.WeakSet[ModelRunner] = weakref.WeakSet()
    counts, open_runner = [], VariantBuilder.open

    def count(builder: VariantBuilder, execution: Execution) -> ModelRunner:
        runner = open_runner(builder, execution)
        opened.add(runner)
        counts.append(len(opened))
        return runner

    monkeypatch.setattr(VariantBuilder, "open", count)
    monkeypatch.setattr(groups, "MAX_OPEN", 3)
    monkeypatch.setattr(groups, "TIMED_ROWS", 8)
    with one_round():
        timings = time_in_groups(builder, prepared.reference, (TorchSetup(),), chosen)
    assert counts == [1, 2] * 4  # two beside torch, then one after the other with the fastest
    assert list(timings.results) == [REFERENCE, *names]
    assert list(timings.baselines) == [REFERENCE]
    assert all(timings.results[name].timing.baseline == REFERENCE for name in names)
