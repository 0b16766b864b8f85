"""The batcher: fair order, cancellation, deadlines, isolation of bad rows, and refusal of what would wait too long."""

import asyncio
import itertools
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kit.engines import StalledEngine
from kit.texts import random_texts

from tuneport.errors import Overloaded, PayloadTooLarge, ServiceStopping
from tuneport.runtime.batch import EncodedInput, RowOutputs, RunBatch
from tuneport.runtime.loading import open_runner
from tuneport.runtime.runner import ModelRunner
from tuneport.runtime.scheduler import BatchLimits
from tuneport.schema.artifact import Manifest
from tuneport.stages.serve import batcher as batcher_module
from tuneport.stages.serve.batcher import Batcher, BatchReport
from tuneport.stages.serve.row_queue import RowQueue


def first_tokens(rows: Sequence[EncodedInput]) -> list[RowOutputs]:
    """Answer each row with its first token; negative ones are bad rows."""
    if any(row.ids[0] < 0 for row in rows):
        raise ValueError("a bad row")
    return [{"value": np.array(row.ids[0], np.float32)} for row in rows]


def row(value: int, length: int = 1) -> EncodedInput:
    return EncodedInput([value] * length, [0] * length, False)


def make_batcher(run: RunBatch, *, limits: int = 64, waiting: int = 1000, streams: int = 1) -> Batcher:
    return Batcher(run, streams=streams, limits=BatchLimits(limits), max_queue_inputs=waiting)


def values(results: Sequence[RowOutputs]) -> list[int]:
    return [int(result["value"]) for result in results]


def batches(engine: StalledEngine) -> list[list[int]]:
    """Return the first token of each row of each batch."""
    return [[each.ids[0] for each in rows] for rows in engine.calls]


@pytest.fixture
def engine() -> StalledEngine:
    return StalledEngine(first_tokens)


@pytest.fixture(scope="module")
def runner(tiny_artifact: Path, manifest: Manifest) -> ModelRunner:
    return open_runner(tiny_artifact, manifest, manifest.variant("fp32"))


def test_concurrent_callers_each_get_their_own_answers_in_order(runner: ModelRunner) -> None:
    texts = [text for text, _ in zip(random_texts(11), range(300), strict=False)]
    rows = [windows[0] for windows in runner.task.encode(texts)]
    alone = [runner.run_batch([each])[0]["logits"] for each in rows]
    requests = [range(start, min(start + size, 300)) for size in (1, 7, 40) for start in range(0, 300, size)]

    async def send_all() -> list[list[RowOutputs]]:
        batcher = make_batcher(runner.run_batch, limits=256, waiting=10_000)
        answers = await asyncio.gather(*(batcher.submit([rows[i] for i in request]) for request in requests))
        batcher.close()
        return answers

    for request, answer in zip(requests, asyncio.run(send_all()), strict=True):
        assert len(answer) == len(request)
        for i, result in zip(request, answer, strict=True):
            np.testing.assert_allclose(result["logits"], alone[i], atol=1e-4)


def test_the_queue_is_changed_under_the_lock_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    batchers: list[Batcher] = []
    called: set[tuple[str, bool]] = set()

    def watch(name: str) -> None:
        method = getattr(RowQueue, name)

        def watched(queue: RowQueue, *args: Any, **kwargs: Any) -> Any:
            if batchers:
                called.add((name, batchers[0]._changed._is_owned()))  # type: ignore[attr-defined]
            return method(queue, *args, **kwargs)

        monkeypatch.setattr(RowQueue, name, watched)

    names = ("check_capacity", "put", "take_expired", "take_batch", "batch_ended", "clear")
    for name in names:
        watch(name)

    async def run() -> None:
        batchers.append(make_batcher(first_tokens))
        await batchers[0].submit([row(1)])
        batchers[0].close()

    asyncio.run(run())
    assert called == {(name, True) for name in names}


def test_two_streams_run_two_batches_at_a_time(engine: StalledEngine) -> None:
    async def run() -> list[list[RowOutputs]]:
        engine.stall()
        batcher = make_batcher(engine, streams=2, limits=1)
        requests = asyncio.gather(*(batcher.submit([row(i)]) for i in (1, 2, 3)))
        await engine.called(2)
        await asyncio.sleep(0.05)
        assert len(engine.calls) == 2
        engine.resume()
        answers = await requests
        batcher.close()
        return answers

    assert [values(answer) for answer in asyncio.run(run())] == [[1], [2], [3]]


def test_rows_that_wait_are_run_together_by_length_and_the_oldest_goes_first(engine: StalledEngine) -> None:
    async def run() -> None:
        engine.stall()
        batcher = make_batcher(engine, limits=20)
        first = asyncio.ensure_future(batcher.submit([row(0)]))
        await engine.called()
        rest = asyncio.ensure_future(batcher.submit([row(1, 10), row(2, 3), row(3, 10), row(4, 3)]))
        await asyncio.sleep(0)
        engine.resume()
        assert values(await first) + values(await rest) == [0, 1, 2, 3, 4]
        batcher.close()

    asyncio.run(run())
    assert batches(engine) == [[0], [1, 3], [2, 4]]


def test_rows_of_a_caller_who_left_do_not_run(engine: StalledEngine) -> None:
    async def run() -> None:
        engine.stall()
        batcher = make_batcher(engine)
        first = asyncio.ensure_future(batcher.submit([row(1)]))
        await engine.called()
        cancelled = asyncio.ensure_future(batcher.submit([row(2), row(3)]))
        patient = asyncio.ensure_future(batcher.submit([row(4)]))
        await asyncio.sleep(0)
        cancelled.cancel()
        await asyncio.sleep(0)
        engine.resume()
        assert values(await first) + values(await patient) == [1, 4]
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        batcher.close()

    asyncio.run(run())
    assert batches(engine) == [[1], [4]]


def test_a_full_queue_refuses_at_once_and_accepts_again_when_callers_leave(engine: StalledEngine) -> None:
    async def run() -> None:
        engine.stall()
        batcher = make_batcher(engine, waiting=2)
        first = asyncio.ensure_future(batcher.submit([row(1)]))
        await engine.called()
        waiting = asyncio.ensure_future(batcher.submit([row(2), row(3)]))
        await asyncio.sleep(0)
        with pytest.raises(Overloaded, match="2 inputs are waiting and at most 2 may"):
            await batcher.submit([row(4)])
        with pytest.raises(PayloadTooLarge, match="3 rows in one request, and the limit is 2"):  # a retry cannot help
            await batcher.submit([row(4)] * 3)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        after = asyncio.ensure_future(batcher.submit([row(5), row(6)]))
        await asyncio.sleep(0)
        engine.resume()
        assert values(await first) + values(await after) == [1, 5, 6]
        batcher.close()

    asyncio.run(run())


def test_a_bad_row_fails_only_its_own_caller(engine: StalledEngine) -> None:
    async def run() -> list[list[RowOutputs] | BaseException]:
        engine.stall()
        batcher = make_batcher(engine)
        first = asyncio.ensure_future(batcher.submit([row(0)]))
        await engine.called()
        requests = asyncio.gather(
            batcher.submit([row(1)]),
            batcher.submit([row(2), row(-1)]),
            batcher.submit([row(3)]),
            return_exceptions=True,
        )
        await asyncio.sleep(0)
        engine.resume()
        await first
        answers = await requests
        assert values(await batcher.submit([row(7)])) == [7]
        batcher.close()
        return answers

    before, bad, after = asyncio.run(run())
    assert isinstance(before, list)
    assert isinstance(after, list)
    assert values(before) + values(after) == [1, 3]
    assert isinstance(bad, ValueError)
    assert sorted(batches(engine)[1]) == [-1, 1, 2, 3]


def test_the_rest_of_a_failed_request_does_not_run() -> None:
    released = threading.Event()

    def run_and_hold_up_2(rows: Sequence[EncodedInput]) -> list[RowOutputs]:
        results = first_tokens(rows)
        assert rows[0].ids[0] != 2 or released.wait(30)
        return results

    engine = StalledEngine(run_and_hold_up_2)

    async def run() -> None:
        batcher = make_batcher(engine, limits=1)
        with pytest.raises(ValueError, match="a bad row"):
            await batcher.submit([row(-1), row(2), row(3)])
        released.set()
        assert values(await batcher.submit([row(9)])) == [9]
        batcher.close()

    asyncio.run(run())
    # The stream may take 2 before its caller hears of the failure.
    assert batches(engine) in ([[-1], [9]], [[-1], [2], [9]])


def test_an_engine_that_loses_a_row_fails_its_callers_and_keeps_none_waiting() -> None:
    async def run() -> None:
        batcher = make_batcher(lambda rows: [])
        with pytest.raises(ValueError, match="0 results for 1 row"):
            await asyncio.wait_for(batcher.submit([row(1)]), 30)
        batcher.close()

    asyncio.run(run())


def test_closing_lets_the_running_batch_end_and_refuses_the_rest(engine: StalledEngine) -> None:
    async def run() -> None:
        engine.stall()
        batcher = make_batcher(engine)
        first = asyncio.ensure_future(batcher.submit([row(1)]))
        await engine.called()
        waiting = asyncio.ensure_future(batcher.submit([row(2)]))
        await asyncio.sleep(0)
        threading.Timer(0.05, engine.resume).start()
        batcher.close()
        with pytest.raises(ServiceStopping, match="stopping"):
            await asyncio.wait_for(waiting, 30)
        with pytest.raises(ServiceStopping, match="stopping"):
            await batcher.submit([row(3)])
        assert values(await first) == [1]

    asyncio.run(run())
    assert batches(engine) == [[1]]


def test_closing_waits_for_a_batch_that_hangs_no_longer_than_its_limit(
    engine: StalledEngine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(batcher_module, "CLOSE_TIMEOUT_S", 0.05)

    async def run() -> None:
        engine.stall()
        batcher = make_batcher(engine)
        running = asyncio.ensure_future(batcher.submit([row(1)]))
        await engine.called()
        batcher.close()
        assert not running.done()
        engine.resume()
        assert values(await running) == [1]

    asyncio.run(run())
    assert "batches do not end" in caplog.messages


def test_the_event_loop_stays_free_while_a_batch_runs(engine: StalledEngine) -> None:
    async def run() -> None:
        engine.stall()
        batcher = make_batcher(engine)
        request = asyncio.ensure_future(batcher.submit([row(1)]))
        await engine.called()
        for _ in range(100):
            await asyncio.sleep(0)
        assert not request.done()
        engine.resume()
        assert values(await request) == [1]
        batcher.close()

    asyncio.run(run())


def test_rows_whose_deadline_has_passed_do_not_run(engine: StalledEngine) -> None:
    async def run() -> None:
        engine.stall()
        batcher = make_batcher(engine)
        first = asyncio.ensure_future(batcher.submit([row(1)]))
        await engine.called()
        now = asyncio.get_running_loop().time()
        late = asyncio.ensure_future(batcher.submit([row(2), row(3)], deadline=now + 0.02))
        patient = asyncio.ensure_future(batcher.submit([row(4)], deadline=now + 30))
        await asyncio.sleep(0.05)
        engine.resume()
        assert values(await first) + values(await patient) == [1, 4]
        with pytest.raises(TimeoutError):
            await late
        batcher.close()

    asyncio.run(run())
    assert batches(engine) == [[1], [4]]


def test_a_request_of_one_row_overtakes_one_of_many_but_not_forever() -> None:
    def slow(rows: Sequence[EncodedInput]) -> list[RowOutputs]:
        threading.Event().wait(0.01)  # so that a caller with an answer sends the next row before the next batch
        return first_tokens(rows)

    engine = StalledEngine(slow, stalled=True)

    async def one_after_another(batcher: Batcher, first: int) -> None:
        for i in range(first, first + 20):
            await batcher.submit([row(i, 10)])

    async def run() -> None:
        batcher = make_batcher(engine, limits=10)  # a row of ten tokens fills a batch
        bulk = asyncio.ensure_future(batcher.submit([row(i, 10) for i in range(100, 105)]))
        await engine.called()
        callers = [asyncio.ensure_future(one_after_another(batcher, first)) for first in (1, 21)]
        await asyncio.sleep(0)
        engine.resume()
        await asyncio.gather(bulk, *callers)
        batcher.close()

    asyncio.run(run())
    order = [batch[0] for batch in batches(engine)]
    assert order[:3] == [100, 1, 21]
    places = [order.index(value) for value in range(100, 105)]
    assert all(3 <= after - before <= 6 for before, after in itertools.pairwise(places)), places


def test_a_queue_that_would_take_too_long_refuses_and_says_when_to_retry() -> None:
    reports: list[BatchReport] = []

    def slow(rows: Sequence[EncodedInput]) -> list[RowOutputs]:
        threading.Event().wait(0.02 * len(rows))  # 500 tokens a second
        return first_tokens(rows)

    async def run() -> None:
        batcher = Batcher(
            slow, streams=1, limits=BatchLimits(20), max_queue_inputs=1000, max_queue_s=0.1, report=reports.append
        )
        await batcher.submit([row(0, 10)] * 10)  # shows the speed
        requests = [asyncio.ensure_future(batcher.submit([row(i, 10)])) for i in range(40)]
        answers = await asyncio.gather(*requests, return_exceptions=True)
        refused = [answer for answer in answers if isinstance(answer, Overloaded)]
        assert 4 <= 40 - len(refused) <= 16
        assert all(0 < error.retry_after_s < 1 for error in refused)
        assert "TUNEPORT_MAX_QUEUE_MS" in refused[0].remedy
        assert len(await batcher.submit([row(1, 10)])) == 1
        batcher.close()

    asyncio.run(run())
    assert (reports[1].tokens, reports[1].padded_tokens) == (20, 20)
    assert sum(report.rows for report in reports) == sum(len(report.waited_s) for report in reports)


def test_a_request_whose_deadline_cannot_be_met_is_refused_at_once(engine: StalledEngine) -> None:
    def slow(rows: Sequence[EncodedInput]) -> list[RowOutputs]:
        threading.Event().wait(0.02)
        return engine(rows)

    async def run() -> None:
        batcher = Batcher(slow, streams=1, limits=BatchLimits(10), max_queue_inputs=1000)
        bulk = asyncio.ensure_future(batcher.submit([row(0, 10)] * 5))
        await engine.called(3)
        others = [asyncio.ensure_future(batcher.submit([row(1, 10)])) for _ in range(50)]
        await asyncio.sleep(0)
        now = asyncio.get_running_loop().time()
        with pytest.raises(Overloaded, match="would not be answered within its") as refused:
            await batcher.submit([row(2, 10)], deadline=now + 0.1)
        assert refused.value.retry_after_s > 0
        # A request with more time is none of those, and without the others both are accepted.
        patient = asyncio.ensure_future(batcher.submit([row(3, 10)], deadline=now + 60))
        await asyncio.sleep(0)
        for other in others:
            other.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await bulk
        assert values(await patient) == [3]
        assert values(await batcher.submit([row(4, 10)], deadline=asyncio.get_running_loop().time() + 10)) == [4]
        batcher.close()

    asyncio.run(run())


def test_rows_that_leave_free_their_place_and_are_not_waited_for() -> None:
    async def run() -> None:
        queue = RowQueue(BatchLimits(10), streams=1, max_rows=100, max_wait_s=None)
        for _ in range(3):  # shows a speed
            queue.put([row(0, 10)], None)
        queue.take_batch()
        await asyncio.sleep(0.01)
        queue.take_batch()
        submissions = [queue.put([row(1, 10)], None) for _ in range(20)]
        loop = asyncio.get_running_loop()
        with pytest.raises(Overloaded):
            queue.check_capacity(1, deadline=loop.time() + 0.05)
        for each in submissions:
            each.answered.cancel()
            queue.drop(each)
        assert len(queue) == 1
        queue.check_capacity(99, deadline=loop.time() + 10)
        assert [job.row.ids[0] for job in queue.take_batch()] == [0]
        assert queue.take_batch() == []
        queue.check_capacity(1, deadline=loop.time() + 1e-3)

    asyncio.run(run())


def test_what_left_the_queue_is_not_kept() -> None:
    async def run() -> None:
        queue = RowQueue(BatchLimits(10), streams=1, max_rows=10**6, max_wait_s=None)
        waiting = queue.put([row(0, 10)], None)
        for _ in range(3000):
            queue.drop(queue.put([row(1, 10)] * 3, asyncio.get_running_loop().time() + 1000))
        assert len(queue) == 1
        assert len(queue._jobs) + len(queue._later) + len(queue._deadlines) < 5000
        assert queue.clear() == [waiting]

    asyncio.run(run())


def test_a_bulk_request_does_not_shut_others_out(engine: StalledEngine) -> None:
    """The rows that a large request holds back for later are not before a new request."""

    async def run() -> None:
        batcher = Batcher(engine, streams=1, limits=BatchLimits(20), max_queue_inputs=1000, max_queue_s=1e-9)
        await batcher.submit([row(0, 10), row(0, 10)])
        engine.stall()
        bulk = asyncio.ensure_future(batcher.submit([row(1, 10)] * 100))
        await engine.called(2)
        single = asyncio.ensure_future(batcher.submit([row(2, 10)]))
        await asyncio.sleep(0)
        engine.resume()
        assert values(await single) == [2]
        await bulk
        batcher.close()
        assert 2 in batches(engine)[2]  # the next batch after the one that ran

    asyncio.run(run())


def test_requests_that_come_together_run_together(engine: StalledEngine) -> None:
    """A stream is woken after all that the event loop had to do, so that an idle engine does not take row by row."""

    async def run() -> None:
        batcher = make_batcher(engine, streams=2)
        for count in (5, 7):
            await asyncio.gather(*(batcher.submit([row(i)]) for i in range(count)))
        batcher.close()

    asyncio.run(run())
    assert batches(engine) == [[0, 1, 2, 3, 4], [0, 1, 2, 3, 4, 5, 6]]


def test_rows_beyond_a_batch_run_in_an_idle_stream(engine: StalledEngine) -> None:
    async def run() -> None:
        batcher = make_batcher(engine, limits=2, streams=3)
        engine.stall()
        request = asyncio.ensure_future(batcher.submit([row(i) for i in range(6)]))
        await engine.called(3)  # all streams at once
        engine.resume()
        assert values(await request) == [0, 1, 2, 3, 4, 5]
        batcher.close()

    asyncio.run(run())


def test_the_report_counts_padding(engine: StalledEngine) -> None:
    reports: list[BatchReport] = []

    async def run() -> None:
        batcher = Batcher(engine, streams=1, limits=BatchLimits(64), max_queue_inputs=9, report=reports.append)
        await batcher.submit([row(1, 3), row(2, 5)])
        batcher.close()

    asyncio.run(run())
    assert [(each.rows, each.tokens, each.padded_tokens) for each in reports] == [(2, 8, 10)]
