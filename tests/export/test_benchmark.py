"""The export's benchmark: which figure is whose, with models whose speed is known."""

import itertools
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from tuneport.runtime.batch import EncodedInput
from tuneport.runtime.scheduler import BATCH_TOKENS, BatchLimits
from tuneport.schema.torch_setup import TorchSetup
from tuneport.stages.export.benchmark import MAX_TURNS, benchmark, enough_rows
from tuneport.stages.export.results import BenchmarkResult
from tuneport.stages.export.target import BenchmarkTarget
from tuneport.stages.export.turns import split_rows


def sleep_ms(milliseconds: float) -> Callable[[Sequence[EncodedInput]], None]:
    """Return a model that takes this time for each row."""

    def run_batch(rows: Sequence[EncodedInput]) -> None:
        time.sleep(milliseconds * len(rows) / 1000)

    return run_batch


def turns(result: BenchmarkResult) -> int:
    assert result.seconds is not None
    return len(result.seconds.values)


def test_speed_up_is_relative_to_the_baseline_and_latency_is_that_of_one_row() -> None:
    rows = [EncodedInput([1] * 8, [0] * 8, False)] * 12
    targets = {"torch fp32": BenchmarkTarget(sleep_ms(8), TorchSetup()), "fast": BenchmarkTarget(sleep_ms(2))}
    results = benchmark(targets, rows, rounds=1, singles=6)
    torch, fast = results["torch fp32"].timing, results["fast"].timing
    assert torch.speed_up == 1.0
    assert fast.speed_up == pytest.approx(4, rel=0.4)
    assert fast.speed_up == pytest.approx(fast.texts_per_s / torch.texts_per_s, rel=0.01)
    assert 8 <= torch.latency_ms_p50
    assert 2 <= fast.latency_ms_p50 < torch.latency_ms_p50
    assert (torch.latency_ms_p95, torch.latency_ms_p99) == (None, None)  # withheld: six samples
    assert torch.speed_up_interval == (1.0, 1.0)
    for timing in (torch, fast):
        for value, interval in (
            (timing.speed_up, timing.speed_up_interval),
            (timing.texts_per_s, timing.texts_per_s_interval),
            (timing.latency_ms_p50, timing.latency_ms_p50_interval),
        ):
            assert interval is not None
            assert interval[0] * 0.999 <= value <= interval[1] * 1.001
        assert timing.tokens_per_s == pytest.approx(8 * timing.texts_per_s, rel=0.01)


def test_a_noisy_machine_is_named_and_a_quiet_one_stops_early() -> None:
    rows = [EncodedInput([1] * 8, [0] * 8, False)] * 12
    chance = random.Random(3)

    def steady(batch: Sequence[EncodedInput]) -> None:
        time.sleep(0.004)

    def erratic(batch: Sequence[EncodedInput]) -> None:
        time.sleep(min(0.03, 0.001 * chance.lognormvariate(1, 1.5)))

    targets = {"torch fp32": BenchmarkTarget(steady, TorchSetup()), "same": BenchmarkTarget(steady)}
    quiet = benchmark(targets, rows, singles=1, precision=0.3)
    assert not quiet["same"].timing.is_noisy
    assert turns(quiet["same"]) < MAX_TURNS
    noisy = benchmark(
        {**targets, "erratic": BenchmarkTarget(erratic)}, rows, singles=1, precision=0.01, max_seconds=0.2
    )
    assert noisy["erratic"].timing.is_noisy
    low, high = noisy["erratic"].timing.speed_up_interval or (1.0, 1.0)
    assert low < high
    assert len({turns(result) for result in noisy.values()}) == 1


def test_targets_take_turns_on_the_same_rows() -> None:
    rows = [EncodedInput([1] * n, [0] * n, False) for n in range(1, 65)]
    order: list[tuple[str, int]] = []

    def target(name: str, torch: TorchSetup | None = None) -> BenchmarkTarget:
        def run_batch(batch: Sequence[EncodedInput]) -> None:
            order.append((name, sum(map(len, batch))))
            time.sleep(0.001)

        return BenchmarkTarget(run_batch, torch, limits=(BatchLimits(64),))

    benchmark({"torch fp32": target("torch fp32", TorchSetup()), "b": target("b")}, rows, rounds=1, singles=20)
    changes = sum(one[0] != other[0] for one, other in itertools.pairwise(order))
    assert changes >= 8
    work = {name: sum(tokens for who, tokens in order if who == name) for name in ("torch fp32", "b")}
    assert work["torch fp32"] == work["b"]


def test_a_turn_of_single_rows_keeps_all_streams_busy() -> None:
    """A turn of one row would show a second stream as useless."""
    rows = [EncodedInput([1] * 64, [0] * 64, False)] * 32
    one = BenchmarkTarget(sleep_ms(5), limits=(BatchLimits(1),))
    results = benchmark({"one": one, "two": replace(one, streams=2)}, rows, rounds=1, singles=1)
    assert results["two"].timing.speed_up == pytest.approx(2, rel=0.3)


def test_parts_hold_every_row_once_and_the_same_mixture_of_lengths() -> None:
    rows = [EncodedInput([1] * n, [0] * n, False) for n in range(1, 101)]
    parts = split_rows(rows, 500)
    assert sorted(len(row) for part in parts for row in part) == list(range(1, 101))
    assert len(parts) == 10
    means = [sum(map(len, part)) / len(part) for part in parts]
    assert max(means) - min(means) <= 10
    assert split_rows(rows, 10**9) == [rows]
    assert [len(part) for part in split_rows(rows, 1)] == [1] * len(rows)  # no part is empty


def test_batches_that_do_not_fit_into_memory_are_not_chosen() -> None:
    """With an engine that is faster the larger the batch, until 5 rows of 8 tokens are too many."""
    sizes = []

    def run_batch(rows: Sequence[EncodedInput]) -> None:
        sizes.append(len(rows))
        if len(rows) >= 5:
            raise RuntimeError("CUDA failure 2: out of memory ; GPU=0 ;")
        time.sleep(0.02)

    rows = [EncodedInput([1] * 8, [0] * 8, False)] * 12
    limits = tuple(BatchLimits(tokens) for tokens in (8, 32, 40, 80))
    targets = {"torch fp32": BenchmarkTarget(run_batch, TorchSetup(), limits=limits)}
    results = benchmark(targets, rows, rounds=1, singles=2)
    assert results["torch fp32"].max_batch_tokens == 32
    assert max(sizes) == 5  # 10 rows were not even tried
    assert sizes.count(5) == 1


def test_an_engine_that_fails_otherwise_is_not_timed() -> None:
    def run_batch(rows: Sequence[EncodedInput]) -> None:
        if len(rows) > 1:
            raise RuntimeError("no kernel")

    rows = [EncodedInput([1] * 8, [0] * 8, False)] * 4
    target = BenchmarkTarget(run_batch, TorchSetup(), limits=(BatchLimits(8), BatchLimits(32)))
    with pytest.raises(RuntimeError, match="no kernel"):
        benchmark({"torch fp32": target}, rows, rounds=1)


def test_a_gpu_is_timed_on_rows_that_fill_its_largest_batch_twice() -> None:
    rows = [EncodedInput([1] * n, [0] * n, False) for n in (10, 40, 70)]
    assert enough_rows(rows, "cpu") == rows
    repeated = enough_rows(rows, "cuda")
    assert repeated[:3] == rows
    assert sum(map(len, repeated)) >= 2 * BATCH_TOKENS["cuda"][-1]
    assert len(repeated) % 3 == 0
