"""The export's benchmark: which figure is whose, with models whose speed is known."""

import time
from collections.abc import Callable, Sequence

import pytest

from tuneport.runtime.batch import EncodedInput
from tuneport.schema.torch_setup import TorchSetup
from tuneport.stages.export.benchmark import BenchmarkTarget, benchmark


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
