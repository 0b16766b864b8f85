"""The export's benchmark: which figure is whose, with models whose speed is known."""

import time
from collections.abc import Callable, Sequence

import pytest

from tuneport.runtime.batch import EncodedInput
from tuneport.runtime.scheduler import BatchLimits
from tuneport.schema.torch_setup import TorchSetup
from tuneport.stages.export.benchmark import BATCH_TOKENS, BenchmarkTarget, benchmark, enough_rows


def sleep_ms(milliseconds: float) -> Callable[[Sequence[EncodedInput]], None]:
    """Return a model that takes this time for each row."""

    def run_batch(rows: Sequence[EncodedInput]) -> None:
        time.sleep(milliseconds * len(rows) / 1000)

    return run_batch


def test_speed_up_is_relative_to_the_baseline_and_latency_is_that_of_one_row() -> None:
    rows = [EncodedInput([1] * 8, [0] * 8, False)] * 12
    targets = {"torch fp32": BenchmarkTarget(sleep_ms(8), TorchSetup()), "fast": BenchmarkTarget(sleep_ms(2))}
    results = benchmark(targets, rows, rounds=1, singles=6)
    torch, fast = results["torch fp32"].timing, results["fast"].timing
    assert torch.speed_up == 1.0
    assert fast.speed_up == pytest.approx(4, rel=0.4)
    assert fast.speed_up == pytest.approx(fast.texts_per_s / torch.texts_per_s, rel=0.01)
    assert 8 <= torch.latency_ms_p50 <= torch.latency_ms_p95 <= torch.latency_ms_p99
    assert 2 <= fast.latency_ms_p50 < torch.latency_ms_p50


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
