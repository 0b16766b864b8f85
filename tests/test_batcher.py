import asyncio
import itertools
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from helpers import random_texts

from export.manifest import Manifest
from serve.batcher import Batcher, BatchReport, Overloaded, Result, RunBatch
from serve.model import Model, open_model
from serve.plan import Budget
from serve.tokenizer import Row


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
    return Batcher(run, streams=streams, budget=Budget(budget), max_waiting=waiting)


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
    return open_model(tiny_artifact, manifest, manifest.variant("fp32"))


def test_concurrent_callers_each_get_their_own_answers_in_order(model: Model) -> None:
    texts = [text for text, _ in zip(random_texts(11), range(300), strict=False)]
    rows = [windows[0] for windows in model.task.encode(texts)]
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
    assert sorted(recorder.batches[1]) == [-1, 1, 2, 3]


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


def test_rows_whose_deadline_has_passed_do_not_run(recorder: Recorder) -> None:
    async def run() -> None:
        recorder.go.clear()
        feeding = batcher(recorder.run)
        first = asyncio.ensure_future(feeding.submit([row(1)]))
        await started(recorder)
        now = asyncio.get_running_loop().time()
        late = asyncio.ensure_future(feeding.submit([row(2), row(3)], deadline=now + 0.02))
        patient = asyncio.ensure_future(feeding.submit([row(4)], deadline=now + 30))
        await asyncio.sleep(0.05)
        recorder.go.set()
        assert values(await first) + values(await patient) == [1, 4]
        with pytest.raises(TimeoutError):
            await late
        feeding.close()

    asyncio.run(run())
    assert recorder.batches == [[1], [4]]


def test_a_request_of_one_row_overtakes_one_of_many_but_not_for_ever(recorder: Recorder) -> None:
    async def one_after_another(feeding: Batcher, first: int) -> None:
        for i in range(first, first + 20):
            await feeding.submit([row(i, 10)])

    def not_at_once(rows: Sequence[Row]) -> list[Result]:
        threading.Event().wait(0.01)  # so that who has an answer asks again before the next batch
        return recorder.run(rows)

    async def run() -> None:
        recorder.go.clear()
        feeding = batcher(not_at_once, budget=10)  # a row of ten tokens fills a batch
        bulk = asyncio.ensure_future(feeding.submit([row(i, 10) for i in range(100, 105)]))
        await started(recorder)
        callers = [asyncio.ensure_future(one_after_another(feeding, first)) for first in (1, 21)]
        await asyncio.sleep(0)
        recorder.go.set()
        await asyncio.gather(bulk, *callers)
        feeding.close()

    asyncio.run(run())
    order = [batch[0] for batch in recorder.batches]
    assert order[:3] == [100, 1, 21]
    places = [order.index(value) for value in range(100, 105)]
    assert all(3 <= after - before <= 6 for before, after in itertools.pairwise(places)), places


def test_a_queue_that_would_take_too_long_refuses_and_says_when_to_come_back() -> None:
    reports: list[BatchReport] = []

    def slow(rows: Sequence[Row]) -> list[Result]:
        threading.Event().wait(0.02 * len(rows))  # 500 tokens a second
        return [{"value": np.array(row.ids[0], np.float32)} for row in rows]

    async def run() -> None:
        feeding = Batcher(slow, streams=1, budget=Budget(20), max_waiting=1000, max_queue_s=0.1, report=reports.append)
        await feeding.submit([row(0, 10), row(0, 10)])  # tells the speed
        asking = [asyncio.ensure_future(feeding.submit([row(i, 10)])) for i in range(40)]
        answers = await asyncio.gather(*asking, return_exceptions=True)
        refused = [answer for answer in answers if isinstance(answer, Overloaded)]
        assert 4 <= 40 - len(refused) <= 16
        assert all(0.1 < error.retry_after_s < 1 for error in refused)
        assert "TUNEPORT_MAX_QUEUE_MS" in refused[0].remedy
        assert len(await feeding.submit([row(1, 10)])) == 1
        feeding.close()

    asyncio.run(run())
    assert reports[0].rows == 2
    assert (reports[0].tokens, reports[0].padded_tokens) == (20, 20)
    assert sum(report.rows for report in reports) == sum(len(report.waited_s) for report in reports)


def test_a_bulk_request_does_not_shut_others_out(recorder: Recorder) -> None:
    """What waits behind a request's own first rows is not ahead of a newcomer."""

    async def run() -> None:
        feeding = Batcher(recorder.run, streams=1, budget=Budget(20), max_waiting=1000, max_queue_s=1e-9)
        await feeding.submit([row(0, 10), row(0, 10)])
        recorder.go.clear()
        bulk = asyncio.ensure_future(feeding.submit([row(1, 10)] * 100))
        await asyncio.sleep(0.02)
        single = asyncio.ensure_future(feeding.submit([row(2, 10)]))
        await asyncio.sleep(0.02)
        recorder.go.set()
        assert values(await single) == [2]
        assert not bulk.done()
        await bulk
        feeding.close()

    asyncio.run(run())


def test_the_report_tells_padding(recorder: Recorder) -> None:
    reports: list[BatchReport] = []

    async def run() -> None:
        feeding = Batcher(recorder.run, streams=1, budget=Budget(64), max_waiting=9, report=reports.append)
        await feeding.submit([row(1, 3), row(2, 5)])
        feeding.close()

    asyncio.run(run())
    assert [(each.rows, each.tokens, each.padded_tokens) for each in reports] == [(2, 8, 10)]
