"""The choice of a batch size, with an engine whose best size is known."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import pytest

from tuneport.runtime.batch import EncodedInput
from tuneport.runtime.scheduler import BatchLimits
from tuneport.stages.export import batch_size
from tuneport.stages.export.batch_size import MAX_TOKENS, best_limits
from tuneport.stages.export.turns import TargetRunner

ROWS = [EncodedInput([1] * 8, [0] * 8, False)] * 256
CANDIDATES = (BatchLimits(32), BatchLimits(128))


class Clock:
    """Stands for `time.perf_counter`; only engines make it advance, so that the machine's speed has no part."""

    now = 0.0

    def perf_counter(self) -> float:
        return self.now

    def engine(self, best_tokens: int, calls: list[int] | None = None) -> Callable[[Sequence[EncodedInput]], None]:
        """Return an engine that needs the least time a token in batches of `best_tokens` tokens."""

        def run_batch(rows: Sequence[EncodedInput]) -> None:
            tokens = sum(map(len, rows))
            if calls is not None:
                calls.append(tokens)
            self.now += tokens * max(best_tokens / tokens, tokens / best_tokens) / 1e5

        return run_batch


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(batch_size, "time", clock)
    return clock


@contextmanager
def open_runner(run_batch: Callable[[Sequence[EncodedInput]], None]) -> Iterator[TargetRunner]:
    one = TargetRunner(run_batch, 1, 0.0)
    try:
        yield one
    finally:
        one.close()


@pytest.mark.parametrize("best", [8, 32, 128, 512, 2048])
def test_the_range_is_extended_until_the_best_is_inside(clock: Clock, best: int) -> None:
    """Also below the smallest: 8 tokens are one row; and above the largest: 2,048 hold all rows."""
    with open_runner(clock.engine(best)) as one:
        assert best_limits(one, CANDIDATES, ROWS, "cpu").tokens == best


def test_the_range_ends_at_the_limit_of_the_device(clock: Clock) -> None:
    sizes: list[int] = []
    with open_runner(clock.engine(10**6, sizes)) as one:
        best_limits(one, (BatchLimits(2**16), BatchLimits(2**18)), ROWS * 300, "cuda")
    assert max(sizes) <= MAX_TOKENS["cuda"]


def test_choosing_costs_at_most_a_second_on_a_gpu(clock: Clock) -> None:
    """With an engine that needs 10 ms for the largest batch, as MiniLM-L6 does on an H100."""
    candidates = tuple(BatchLimits(tokens) for tokens in (1024, 4096, 16384, 65536))

    def run_batch(rows: Sequence[EncodedInput]) -> None:
        clock.now += 0.001 + 0.01 * sum(map(len, rows)) / 65536

    with open_runner(run_batch) as one:
        best_limits(one, candidates, ROWS * 64, "cuda")
    assert clock.now < 1.3


def test_a_real_engine_is_timed_with_the_real_clock() -> None:
    def run_batch(rows: Sequence[EncodedInput]) -> None:
        time.sleep(0.004 if len(rows) > 4 else 0.003)

    with open_runner(run_batch) as one:
        assert best_limits(one, CANDIDATES, ROWS[:32], "cpu").tokens >= 128


@pytest.mark.parametrize("most", [3, 2, 1])
def test_where_the_smallest_does_not_fit_the_range_begins_below_it(clock: Clock, most: int) -> None:
    """The smallest candidate has batches of 4 rows; batches of 2 rows or of one are the next smaller ones."""
    sizes: list[int] = []

    def run_batch(rows: Sequence[EncodedInput]) -> None:
        sizes.append(len(rows))
        if len(rows) > most:
            raise RuntimeError("CUDA failure 2: out of memory ; GPU=0 ;")
        clock.now += 1e-3

    with open_runner(run_batch) as one:
        limits = best_limits(one, (BatchLimits(32), BatchLimits(64)), ROWS, "cuda")
    assert limits.tokens == 8 * min(most, 2)
    assert max(sizes) == 4  # no larger one was tried


def test_a_row_that_does_not_fit_alone_is_an_error(clock: Clock) -> None:
    def run_batch(rows: Sequence[EncodedInput]) -> None:
        raise RuntimeError("CUDA failure 2: out of memory ; GPU=0 ;")

    with open_runner(run_batch) as one, pytest.raises(RuntimeError, match="out of memory"):
        best_limits(one, CANDIDATES, ROWS, "cuda")
