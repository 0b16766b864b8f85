"""Captures of CUDA graphs have the device alone, and neither they nor batches starve."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kit.engines import wait_until

from tuneport.runtime.backends import gpu
from tuneport.runtime.backends.device_guard import GUARD, DeviceGuard
from tuneport.runtime.backends.gpu import GpuBackend
from tuneport.runtime.batch import EncodedInput, padded_batch
from tuneport.schema.artifact import Manifest


@pytest.fixture
def guard() -> DeviceGuard:
    return DeviceGuard()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as pool:
        yield pool


def enter(context: Callable[[], AbstractContextManager[None]], order: list[str], name: str) -> None:
    with context():
        order.append(name)


def test_a_capture_is_alone_and_batches_are_not(guard: DeviceGuard, pool: ThreadPoolExecutor) -> None:
    order: list[str] = []
    together = threading.Barrier(3)

    def run() -> None:
        with guard.running():
            together.wait(60)  # three at once

    for done in [pool.submit(run) for _ in range(3)]:
        done.result(60)
    with guard.capturing():
        batch = pool.submit(enter, guard.running, order, "batch")
        capture = pool.submit(enter, guard.capturing, order, "capture")
        wait_until(lambda: guard._waiting == 1)
        wait_until(lambda: guard._captures == 2)
        assert wait([batch, capture], timeout=0.2).not_done == {batch, capture}
        assert order == []
    batch.result(60)
    capture.result(60)
    assert order == ["batch", "capture"]


def test_a_capture_that_waits_goes_before_later_batches(guard: DeviceGuard, pool: ThreadPoolExecutor) -> None:
    order: list[str] = []
    with guard.running():
        capture = pool.submit(enter, guard.capturing, order, "capture")
        wait_until(lambda: guard._captures == 1)
        batch = pool.submit(enter, guard.running, order, "batch")
        wait_until(lambda: guard._waiting == 1)
        assert order == []
    capture.result(60)
    batch.result(60)
    assert order == ["capture", "batch"]


def test_batches_that_wait_go_before_the_next_capture(guard: DeviceGuard, pool: ThreadPoolExecutor) -> None:
    order: list[str] = []
    with guard.capturing():
        batches = [pool.submit(enter, guard.running, order, "batch") for _ in range(3)]
        wait_until(lambda: guard._waiting == 3)
        capture = pool.submit(enter, guard.capturing, order, "capture")
        wait_until(lambda: guard._captures == 2)
    for done in (*batches, capture):
        done.result(60)
    assert order == ["batch"] * 3 + ["capture"]


def test_a_batch_that_arrives_takes_no_turn_of_one_that_waited(guard: DeviceGuard, pool: ThreadPoolExecutor) -> None:
    order: list[str] = []
    with contextlib.ExitStack() as first:
        first.enter_context(guard.capturing())
        waited = pool.submit(enter, guard.running, order, "waited")
        second = pool.submit(enter, guard.capturing, order, "capture")
        wait_until(lambda: guard._waiting == 1)
        wait_until(lambda: guard._captures == 2)
        with guard._changed:  # before the one that waited wakes up
            first.close()
            guard._begin()
            order.append("arrived")
            guard._end()
    waited.result(60)
    second.result(60)
    assert order == ["waited", "capture", "arrived"]


def test_a_generation_gives_way_to_captures_between_two_tokens(guard: DeviceGuard, pool: ThreadPoolExecutor) -> None:
    """So that loading a model waits for a token, and no more than one token separates two captures."""
    order: list[str] = []
    with guard.running():
        guard.pause()  # nothing waits
        captures = [pool.submit(enter, guard.capturing, order, "capture") for _ in range(2)]
        wait_until(lambda: guard._captures == 2)
        assert order == []
        for _ in range(3):
            guard.pause()
            order.append("token")
    for capture in captures:
        capture.result(60)
    assert order == ["capture", "token", "capture", "token", "token"]


def test_a_generation_takes_no_turn_of_a_batch_that_waits(guard: DeviceGuard) -> None:
    with guard.running():
        guard._captures, guard._turns = 1, 1  # as between the end of a capture and the start of the batch
        guard.pause()
        assert (guard._running, guard._turns) == (1, 1)
        guard._captures = guard._turns = 0


def test_a_failure_leaves_the_device_free(guard: DeviceGuard) -> None:
    for context in (guard.running, guard.capturing, guard.opening):
        with pytest.raises(ValueError, match="no"), context():
            raise ValueError("no")
    with guard.opening(), guard.capturing():
        pass


def test_a_batch_of_another_model_waits_while_one_captures(
    tiny_artifact: Path, manifest: Manifest, monkeypatch: pytest.MonkeyPatch, pool: ThreadPoolExecutor
) -> None:
    """As when a version is loaded, or a variant opened in the playground, while the service answers."""
    graph = tiny_artifact / manifest.variant("fp32").execution.files[0].path
    batch = padded_batch([EncodedInput([5, 6, 7], [0, 0, 0], False)], manifest.processing)
    serving = GpuBackend(graph, device="cpu", threads=1)
    expected = serving.run(batch)["logits"]
    answers: list[Any] = []
    real = gpu.CapturedShape

    def capture(*arguments: Any) -> Any:
        answers.append(pool.submit(serving.run, batch))
        wait_until(lambda: GUARD._waiting == 1)
        assert not answers[-1].done()
        return real(*arguments)

    monkeypatch.setattr(gpu, "CapturedShape", capture)
    opened = GpuBackend(graph, device="cpu", threads=1, streams=2, graph_shapes=[(1, 16)])
    assert len(answers) == 2
    for answer in (*answers, pool.submit(opened.run, batch)):
        np.testing.assert_allclose(answer.result(60)["logits"], expected, atol=1e-5)


def test_a_model_is_opened_while_no_other_one_is(
    tiny_artifact: Path, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opening a model allocates memory, which another one's capture does not survive."""
    graph = tiny_artifact / manifest.variant("fp32").execution.files[0].path
    is_exclusive: list[bool] = []

    def recording(real: Any) -> Any:
        def record(*arguments: Any, **options: Any) -> Any:
            is_exclusive.append(GUARD._opening.locked())
            return real(*arguments, **options)

        return record

    for name in ("open_session", "CapturedShape"):
        monkeypatch.setattr(gpu, name, recording(getattr(gpu, name)))
    GpuBackend(graph, device="cpu", threads=1, graph_shapes=[(1, 16)])
    assert is_exclusive == [True, True]
    assert not GUARD._opening.locked()


def test_openings_exclude_each_other(guard: DeviceGuard, pool: ThreadPoolExecutor) -> None:
    order: list[str] = []
    with guard.opening():
        second = pool.submit(enter, guard.opening, order, "second")
        assert wait([second], timeout=0.2).not_done
        assert order == []
    second.result(60)
    assert order == ["second"]
