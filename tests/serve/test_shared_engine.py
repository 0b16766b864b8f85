"""Workers that share one engine: the same answers as in one process, batches of all, and each failure by itself."""

import asyncio
import contextlib
import gc
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kit.engines import until
from kit.shared_engine import shared_engine

from tuneport.errors import EngineLost, InputError, Overloaded, PayloadTooLarge, ServiceStopping, TuneportError
from tuneport.runtime.batch import EncodedInput
from tuneport.stages.serve.deployment import check_engines
from tuneport.stages.serve.inference import InferenceResult
from tuneport.stages.serve.settings import Settings
from tuneport.stages.serve.shared_engine.memory import MAX_IDLE_SEGMENTS, SEGMENT_ITEMS, Arena
from tuneport.stages.serve.shared_engine.messages import decode_error, encode_error
from tuneport.stages.serve.shared_engine.row_format import RowFormat

TEXTS = ["bank", "the team won the game", "", "Größe 🙂", "bank " * 200]


def assert_equal(results: list[InferenceResult], expected: list[InferenceResult]) -> None:
    """Compare answers, with scores that a batch of other rows may change in the last digit."""
    assert [each.prompt_tokens for each in results] == [each.prompt_tokens for each in expected]
    assert [each.truncated for each in results] == [each.truncated for each in expected]
    for one, other in zip(results, expected, strict=True):
        assert one.prediction["label"] == other.prediction["label"]
        assert one.prediction["score"] == pytest.approx(other.prediction["score"], abs=1e-5)


def test_workers_answer_as_one_process_does(tiny_artifact: Path, tmp_path: Path) -> None:
    async def run() -> None:
        async with shared_engine(tiny_artifact, tmp_path) as engine:
            expected = await engine.inference.run(TEXTS)
            for _ in range(2):
                front_end = await engine.connect()
                assert_equal(await front_end.run(TEXTS), expected)
                explained = await front_end.run(["the team won"], {"explain": True, "top_k": 2})
                assert explained[0].prediction[0]["explanation"]
                assert front_end.predictor.golden_difference < 1e-3
                assert front_end.predictor.describe() == engine.inference.predictor.describe()

    asyncio.run(run())


def test_batches_are_made_of_the_rows_of_all_workers(tiny_artifact: Path, tmp_path: Path) -> None:
    async def run() -> None:
        async with shared_engine(tiny_artifact, tmp_path, max_batch_tokens=4096) as engine:
            first, second = await engine.connect(), await engine.connect()
            stalled, running = await engine.occupy(first)
            answers = [asyncio.create_task(each.run(["bank bank"])) for each in (first, second) * 4]
            await until(lambda: engine.inference.batcher.waiting == 8)
            await until(lambda: first.batcher.waiting == second.batcher.waiting == 8)
            stalled.resume()
            await asyncio.gather(*running, *answers)
            assert [len(batch.slices) for batch in stalled.calls[len(running) :]] == [8]

    asyncio.run(run())


def test_a_row_that_the_engine_refuses_fails_alone(tiny_artifact: Path, tmp_path: Path) -> None:
    async def run() -> None:
        async with shared_engine(tiny_artifact, tmp_path) as engine:
            first, second = await engine.connect(), await engine.connect()
            runner = engine.runner
            run_batch = runner.run_batch

            def refuse(rows: Any) -> Any:
                if any(len(row) == 9 for row in rows):
                    raise ZeroDivisionError
                return run_batch(rows)

            runner.run_batch = refuse  # type: ignore[method-assign]
            [row] = first.predictor.task.encode(["bank"])[0]
            bad = EncodedInput([row.ids[0]] * 9, [0] * 9, False)
            results = await asyncio.gather(
                first.batcher.submit([bad]), second.batcher.submit([row]), first.batcher.submit([row]),
                return_exceptions=True,
            )  # fmt: skip
            assert type(results[0]).__name__ == "ZeroDivisionError"
            expected = run_batch([row])[0]["logits"]
            for outputs in results[1:]:
                assert not isinstance(outputs, BaseException)
                np.testing.assert_allclose(outputs[0]["logits"], expected, atol=1e-5)
            with pytest.raises(InputError, match="inputs\\[1\\]"):
                await first.run(["bank", 7])

    asyncio.run(run())


def test_what_a_client_does_not_wait_for_is_not_computed(tiny_artifact: Path, tmp_path: Path) -> None:
    async def run() -> None:
        async with shared_engine(tiny_artifact, tmp_path) as engine:
            front_end = await engine.connect()
            stalled, running = await engine.occupy(front_end)
            left = asyncio.create_task(front_end.run(["bank bank"]))
            late = asyncio.create_task(front_end.run(["bank bank"], deadline=time.monotonic() + 0.05))
            await until(lambda: engine.inference.batcher.waiting == 2)
            left.cancel()
            await until(lambda: engine.inference.batcher.waiting == 1)
            await asyncio.sleep(0.06)
            stalled.resume()
            with pytest.raises(TimeoutError):
                await late
            await asyncio.gather(*running)
            assert len(stalled.calls) == len(running)
            assert len(await front_end.run(["bank"])) == 1

    asyncio.run(run())


def test_a_worker_that_ends_loses_only_its_own_requests(tiny_artifact: Path, tmp_path: Path) -> None:
    async def run() -> None:
        async with shared_engine(tiny_artifact, tmp_path) as engine:
            second = await engine.connect()
            files = memory_files()
            first = await engine.connect()
            stalled, running = await engine.occupy(first)
            lost = asyncio.create_task(first.run(["bank"] * 5))
            kept = asyncio.create_task(second.run(["bank"]))
            await until(lambda: engine.inference.batcher.waiting == 6)
            first.close()
            await until(lambda: engine.inference.batcher.waiting == 1)
            assert len(engine.server.sessions) == 1
            stalled.resume()
            assert len(await kept) == 1
            for task in (*running, lost):
                with pytest.raises(ServiceStopping):
                    await task
            await until(lambda: memory_files() == files + 1)  # its page of the queue's state, which ends with a process

    asyncio.run(run())
    assert memory_files() == 0


def memory_files() -> int:
    """Count this process's descriptors of shared memory."""
    gc.collect()
    links = []
    for each in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            links.append(os.readlink(each))
    return sum("memfd:tuneport" in link for link in links)


def test_when_the_engine_ends_requests_get_503_and_the_next_engine_is_found(
    tiny_artifact: Path, tmp_path: Path
) -> None:
    async def run() -> None:
        async with shared_engine(tiny_artifact, tmp_path) as engine:
            front_end = await engine.connect()
            stalled, [waits, *_] = await engine.occupy(front_end)
            engine.server.close()
            with pytest.raises(EngineLost):
                await waits
            assert not front_end.is_ready
            with pytest.raises(EngineLost):
                front_end.check_capacity()
            with pytest.raises(EngineLost):
                await front_end.batcher.submit([])
            stalled.resume()
            (tmp_path / "engine-1").unlink()
            async with shared_engine(tiny_artifact, tmp_path) as other:
                await until(lambda: front_end.is_ready)
                assert_equal(await front_end.run(TEXTS), await other.inference.run(TEXTS))

    asyncio.run(run())


def test_a_worker_refuses_by_the_queue_that_all_share(tiny_artifact: Path, tmp_path: Path) -> None:
    async def run() -> None:
        async with shared_engine(tiny_artifact, tmp_path, max_queue_inputs=3) as engine:
            first, second = await engine.connect(), await engine.connect()
            stalled, tasks = await engine.occupy(first)
            tasks.append(asyncio.create_task(first.run(["bank"] * 3)))
            await until(lambda: second.batcher.waiting == 3)
            with pytest.raises(Overloaded, match="3 inputs are waiting"):
                second.check_capacity()
            row = first.predictor.task.encode(["bank"])[0]
            with pytest.raises(Overloaded, match="3 inputs are waiting"):  # by the engine
                await second.batcher.submit(row)
            with pytest.raises(PayloadTooLarge, match="4 rows in one request"):
                await second.batcher.submit(row * 4)
            stalled.resume()
            await asyncio.gather(*tasks)

    asyncio.run(run())


def test_large_requests_have_memory_of_their_own_that_is_given_back(tiny_artifact: Path, tmp_path: Path) -> None:
    async def run() -> None:
        async with shared_engine(tiny_artifact, tmp_path) as engine:
            front_end = await engine.connect()
            files = memory_files()
            [row] = front_end.predictor.task.encode(["bank " * 200])[0]
            rows = [row] * (SEGMENT_ITEMS // len(row))  # ids and types: twice a segment
            outputs = await front_end.batcher.submit(rows)
            assert len(outputs) == len(rows)
            np.testing.assert_allclose(outputs[0]["logits"], outputs[-1]["logits"], atol=1e-5)
            await front_end.run(["bank"])
            await until(lambda: memory_files() == files)

    asyncio.run(run())


def test_segments_are_used_again_when_all_of_their_blocks_are_free() -> None:
    added: list[int] = []
    dropped: list[int] = []

    def add(number: int, items: int, descriptor: int) -> None:
        os.close(descriptor)
        added.append(items)

    arena = Arena(add, dropped.append)
    half = SEGMENT_ITEMS // 2
    blocks = [arena.allocate(half) for _ in range(2 * MAX_IDLE_SEGMENTS + 4)]
    assert added == [SEGMENT_ITEMS] * (MAX_IDLE_SEGMENTS + 2)
    assert [block.offset for block in blocks[:4]] == [0, half, 0, half]
    arena.free(blocks.pop(0))
    assert arena.allocate(half).number == MAX_IDLE_SEGMENTS + 3  # half of the first one is in use
    for block in blocks:
        arena.free(block)
    assert len(dropped) == 2
    assert arena.allocate(1).offset == half
    assert arena.allocate(SEGMENT_ITEMS).offset == 0
    assert len(added) == MAX_IDLE_SEGMENTS + 3


@pytest.mark.parametrize(
    ("per_token", "shapes"),
    [(False, (("logits", (3,)),)), (True, (("start", ()), ("end", ()))), (True, (("logits", (5,)),)), (False, ())],
)
def test_rows_and_outputs_of_every_shape_cross(per_token: bool, shapes: Any) -> None:
    row_format, chance = RowFormat(per_token, shapes), np.random.default_rng(5)
    rows = [EncodedInput([*range(7, 7 + n)], [n % 2] * n, False) for n in (1, 5, 2)]
    axes = [(len(row),) if per_token else () for row in rows]
    outputs = [{name: chance.normal(size=axis + shape).astype(np.float32) for name, shape in shapes} for axis in axes]
    memory = np.zeros(10 + row_format.items(rows) + 10, np.int32)
    row_format.write_rows(memory, 10, rows)
    assert row_format.read_rows(memory, 10, len(rows)) == rows
    row_format.write_outputs(memory.view(np.float32), 10, rows, outputs)
    assert not memory[:10].any()
    assert not memory[-10:].any()
    for found, expected in zip(row_format.read_outputs(memory.view(np.float32), 10, rows), outputs, strict=True):
        assert found.keys() == expected.keys()
        for name, values in expected.items():
            np.testing.assert_array_equal(found[name], values)


def test_outputs_of_another_shape_are_refused() -> None:
    row_format, row = RowFormat(False, (("logits", (3,)),)), EncodedInput([1], [0], False)
    memory = np.zeros(row_format.items([row]), np.float32)
    with pytest.raises(ValueError, match="shape"):
        row_format.write_outputs(memory, 0, [row], [{"logits": np.zeros(4, np.float32)}])


@pytest.mark.parametrize("error", [ServiceStopping(), EngineLost(), Overloaded("much", "wait", 7.5), TimeoutError()])
def test_an_error_is_the_same_on_both_sides(error: Exception) -> None:
    number, decoded = decode_error(encode_error(9, error))
    assert number == 9
    assert type(decoded) is type(error)
    assert str(decoded) == str(error)
    for name in ("problem", "remedy", "code", "retry_after_s"):
        assert getattr(decoded, name, None) == getattr(error, name, None)


@pytest.mark.parametrize(
    ("settings", "task", "words"),
    [
        ({"engines": 2}, "text-classification", "TUNEPORT_ENGINES is 2, and 1 worker"),
        ({"engines": 1}, "summarization", "cannot share an engine for summarization"),
    ],
)
def test_what_cannot_share_an_engine_is_refused_at_the_start(settings: Any, task: str, words: str) -> None:
    with pytest.raises(TuneportError, match=words):
        check_engines(Settings(**settings), task)
