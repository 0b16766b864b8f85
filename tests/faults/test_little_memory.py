"""A batch that needs more memory than there is: the request is refused, and the service lives."""

import contextlib
import resource
from pathlib import Path
from typing import Any

import httpx
import pytest
from kit.processes import HOST, alive, served, wait
from kit.serving import assert_error, local_service

from tuneport.runtime.predictor import Predictor

DISCONNECTED = 0


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("can't start new thread")])
def test_too_little_memory_outside_of_the_engine_is_503(
    error: Exception, tiny_artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise error

    with local_service(tiny_artifact) as service:
        with monkeypatch.context() as patch:
            patch.setattr(Predictor, "parse_inputs", fail)
            assert_error(service.post(), 503, "out_of_memory")
        assert service.post().status_code == 200


def post(url: str, inputs: Any) -> tuple[int, Any]:
    """Return the status and the predictions; `DISCONNECTED` where the worker ended."""
    try:
        answer = httpx.post(f"{url}/predict", json={"inputs": inputs}, timeout=60)
    except httpx.TransportError:
        return DISCONNECTED, None
    return answer.status_code, answer.json()["predictions"] if answer.status_code == 200 else None


@pytest.mark.slow
@pytest.mark.parametrize("headroom_mib", [2, 4, 16, 48])
def test_an_oversized_batch_is_refused_and_the_service_lives(
    headroom_mib: int, tiny_artifact: Path, tmp_path: Path
) -> None:
    """The worker may map no more than a few megabytes above what it has.

    What Python and the engine cannot get is 503. A library that ends the process instead, as tokenizers does where an
    allocation fails, costs the requests of that worker alone.
    """
    settings = {"TUNEPORT_MAX_BATCH_TOKENS": "1000000", "TUNEPORT_MAX_CLIENT_BATCH_SIZE": "10000"}
    with served(tiny_artifact, tmp_path / "log", **settings) as (tree, ports):
        url, worker = f"http://{HOST}:{ports[0]}", tree[-1]
        texts = ["the team won the game " * 20] * 2000
        expected = post(url, texts)
        small = post(url, "bank")
        assert (expected[0], small[0]) == (200, 200)
        _, hard = resource.prlimit(worker.pid, resource.RLIMIT_AS)
        limit = worker.memory_info().vms + (headroom_mib << 20)
        resource.prlimit(worker.pid, resource.RLIMIT_AS, (limit, hard))
        answers = [post(url, texts * 2 if headroom_mib > 4 else texts) for _ in range(3)]
        # uvicorn says 400 where its parser cannot hold the body.
        assert {status for status, _ in answers} <= {200, 400, 413, 503, DISCONNECTED}
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(worker.pid, resource.RLIMIT_AS, (hard, hard))
        wait(lambda: post(url, "bank") == small, 60, tmp_path / "log")
        assert post(url, texts) == expected
        assert len(alive(tree)) >= 2
