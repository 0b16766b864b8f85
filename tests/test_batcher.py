import asyncio
import itertools
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from helpers import random_texts
from hypothesis import given
from hypothesis import strategies as st

from export.manifest import TOKENIZER, Manifest
from serve.batcher import Batcher, Overloaded, Result, RunBatch, plan
from serve.engines import open_engine
from serve.predictor import Model
from serve.tokenizer import Row, TextTokenizer

LENGTHS = st.lists(st.integers(min_value=1, max_value=600), max_size=200)
BUDGETS = st.integers(min_value=1, max_value=2048)


@given(LENGTHS, BUDGETS)
def test_a_plan_takes_every_row_once(lengths: list[int], budget: int) -> None:
    assert sorted(index for batch in plan(lengths, budget) for index in batch) == list(range(len(lengths)))


@given(LENGTHS, BUDGETS)
def test_a_plan_keeps_its_budget_but_for_a_single_longer_row(lengths: list[int], budget: int) -> None:
    for batch in plan(lengths, budget):
        assert len(batch) * max(lengths[index] for index in batch) <= budget or len(batch) == 1


@given(LENGTHS, BUDGETS)
def test_a_plan_groups_like_lengths(lengths: list[int], budget: int) -> None:
    batches = plan(lengths, budget)
    for shorter, longer in itertools.pairwise(batches):
        assert max(lengths[index] for index in shorter) <= min(lengths[index] for index in longer)


@given(LENGTHS, BUDGETS)
def test_a_plan_has_no_batch_that_would_have_taken_the_next_row(lengths: list[int], budget: int) -> None:
    batches = plan(lengths, budget)
    for batch, following in itertools.pairwise(batches):
        assert (len(batch) + 1) * lengths[following[0]] > budget


class Recorder:
    """An engine that answers a row with its first token and can be held up."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.go = threading.Event()
        self.go.set()

    def run(self, rows: Sequence[Row]) -> list[Result]:
        self.batches.append([row.ids[0] for row in rows])
        assert self.go.wait(30)
        if any(row.ids[0] < 0 for row in rows):
            raise ValueError("a bad row")
        return [{"value": np.array(row.ids[0], np.float32)} for row in rows]


def row(value: int, length: int = 1) -> Row:
    return Row([value] * length, [0] * length, False)


def batcher(run: RunBatch, *, budget: int = 64, waiting: int = 1000, streams: int = 1) -> Batcher:
    return Batcher(run, streams=streams, max_batch_tokens=budget, max_waiting=waiting)


def values(results: Sequence[Result]) -> list[int]:
    return [int(result["value"]) for result in results]


async def started(recorder: Recorder, count: int = 1) -> None:
    """Wait until so many batches have begun."""
    while len(recorder.batches) < count:
        await asyncio.sleep(0.001)


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture(scope="module")
def model(tiny_artifact: Path, manifest: Manifest) -> Model:
    tokenizer = TextTokenizer(tiny_artifact / TOKENIZER, manifest.processing)
    return Model(tokenizer, open_engine(tiny_artifact, manifest.variant("fp32")), manifest.processing.pad_token_id)


def test_concurrent_callers_each_get_their_own_answers_in_order(model: Model) -> None:
    texts = [text for text, _ in zip(random_texts(11), range(300), strict=False)]
    rows = model.tokenizer.encode(texts)
    alone = [model.run_batch([each])[0]["logits"] for each in rows]
    requests = [range(start, min(start + size, 300)) for size in (1, 7, 40) for start in range(0, 300, size)]

    async def ask_all() -> list[list[Result]]:
        feeding = batcher(model.run_batch, budget=256, waiting=10_000)
        answers = await asyncio.gather(*(feeding.submit([rows[i] for i in request]) for request in requests))
        feeding.close()
        return answers

    for request, answer in zip(requests, asyncio.run(ask_all()), strict=True):
        assert len(answer) == len(request)
        for i, result in zip(request, answer, strict=True):
            np.testing.assert_allclose(result["logits"], alone[i], atol=1e-4)


def test_two_streams_run_two_batches_at_a_time(recorder: Recorder) -> None:
    async def run() -> list[list[Result]]:
        recorder.go.clear()
        feeding = batcher(recorder.run, streams=2, budget=1)
        asking = asyncio.gather(*(feeding.submit([row(i)]) for i in (1, 2, 3)))
        await started(recorder, 2)
        await asyncio.sleep(0.05)
        assert len(recorder.batches) == 2
        recorder.go.set()
        answers = await asking
        feeding.close()
        return answers

    assert [values(answer) for answer in asyncio.run(run())] == [[1], [2], [3]]


def test_rows_that_wait_are_run_together_by_length_and_the_oldest_goes_first(recorder: Recorder) -> None:
    async def run() -> None:
        recorder.go.clear()
        feeding = batcher(recorder.run, budget=20)
        first = asyncio.ensure_future(feeding.submit([row(0)]))
        await started(recorder)
        rest = asyncio.ensure_future(feeding.submit([row(1, 10), row(2, 3), row(3, 10), row(4, 3)]))
        await asyncio.sleep(0)
        recorder.go.set()
        assert values(await first) + values(await rest) == [0, 1, 2, 3, 4]
        feeding.close()

    asyncio.run(run())
    assert recorder.batches == [[0], [1, 3], [2, 4]]


def test_rows_of_a_caller_who_left_do_not_run(recorder: Recorder) -> None:
    async def run() -> None:
        recorder.go.clear()
        feeding = batcher(recorder.run)
        first = asyncio.ensure_future(feeding.submit([row(1)]))
        await started(recorder)
        left = asyncio.ensure_future(feeding.submit([row(2), row(3)]))
        stayed = asyncio.ensure_future(feeding.submit([row(4)]))
        await asyncio.sleep(0)
        left.cancel()
        await asyncio.sleep(0)
        recorder.go.set()
        assert values(await first) + values(await stayed) == [1, 4]
        with pytest.raises(asyncio.CancelledError):
            await left
        feeding.close()

    asyncio.run(run())
    assert recorder.batches == [[1], [4]]


def test_a_full_queue_refuses_at_once_and_takes_again_when_callers_leave(recorder: Recorder) -> None:
    async def run() -> None:
        recorder.go.clear()
        feeding = batcher(recorder.run, waiting=2)
        first = asyncio.ensure_future(feeding.submit([row(1)]))
        await started(recorder)
        waiting = asyncio.ensure_future(feeding.submit([row(2), row(3)]))
        await asyncio.sleep(0)
        with pytest.raises(Overloaded, match="2 inputs are waiting and at most 2 may"):
            await feeding.submit([row(4)])
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        after = asyncio.ensure_future(feeding.submit([row(5), row(6)]))
        await asyncio.sleep(0)
        recorder.go.set()
        assert values(await first) + values(await after) == [1, 5, 6]
        feeding.close()

    asyncio.run(run())


def test_a_bad_row_fails_only_its_own_caller(recorder: Recorder) -> None:
    async def run() -> list[list[Result] | BaseException]:
        recorder.go.clear()
        feeding = batcher(recorder.run)
        first = asyncio.ensure_future(feeding.submit([row(0)]))
        await started(recorder)
        asking = asyncio.gather(
            feeding.submit([row(1)]),
            feeding.submit([row(2), row(-1)]),
            feeding.submit([row(3)]),
            return_exceptions=True,
        )
        await asyncio.sleep(0)
        recorder.go.set()
        await first
        answers = await asking
        assert values(await feeding.submit([row(7)])) == [7]
        feeding.close()
        return answers

    before, bad, after = asyncio.run(run())
    assert isinstance(before, list)
    assert isinstance(after, list)
    assert values(before) + values(after) == [1, 3]
    assert isinstance(bad, ValueError)
    assert recorder.batches[1] == [1, 2, -1, 3]


def test_the_rest_of_a_failed_request_does_not_run(recorder: Recorder) -> None:
    released = threading.Event()

    def run_and_hold_up_2(rows: Sequence[Row]) -> list[Result]:
        results = recorder.run(rows)
        assert rows[0].ids[0] != 2 or released.wait(30)
        return results

    async def run() -> None:
        feeding = batcher(run_and_hold_up_2, budget=1)
        with pytest.raises(ValueError, match="a bad row"):
            await feeding.submit([row(-1), row(2), row(3)])
        released.set()
        assert values(await feeding.submit([row(9)])) == [9]
        feeding.close()

    asyncio.run(run())
    assert recorder.batches == [[-1], [2], [9]]


def test_an_engine_that_loses_a_row_fails_its_callers_and_keeps_none_waiting() -> None:
    async def run() -> None:
        feeding = batcher(lambda rows: [])
        with pytest.raises(ValueError, match="0 results for 1 row"):
            await asyncio.wait_for(feeding.submit([row(1)]), 30)
        feeding.close()

    asyncio.run(run())


def test_closing_lets_the_running_batch_end_and_refuses_the_rest(recorder: Recorder) -> None:
    async def run() -> None:
        recorder.go.clear()
        feeding = batcher(recorder.run)
        first = asyncio.ensure_future(feeding.submit([row(1)]))
        await started(recorder)
        waiting = asyncio.ensure_future(feeding.submit([row(2)]))
        await asyncio.sleep(0)
        threading.Timer(0.05, recorder.go.set).start()
        feeding.close()
        with pytest.raises(Overloaded, match="stopping"):
            await asyncio.wait_for(waiting, 30)
        with pytest.raises(Overloaded, match="stopping"):
            await feeding.submit([row(3)])
        assert values(await first) == [1]

    asyncio.run(run())
    assert recorder.batches == [[1]]


def test_the_event_loop_stays_free_while_a_batch_runs(recorder: Recorder) -> None:
    async def run() -> None:
        recorder.go.clear()
        feeding = batcher(recorder.run)
        asking = asyncio.ensure_future(feeding.submit([row(1)]))
        await started(recorder)
        for _ in range(100):
            await asyncio.sleep(0)
        assert not asking.done()
        recorder.go.set()
        assert values(await asking) == [1]
        feeding.close()

    asyncio.run(run())
