"""A batch that needs more memory than there is: the request is refused, and the service lives."""

import resource
from pathlib import Path

import httpx
import pytest
from kit.processes import HOST, alive, served
from kit.serving import assert_error, local_service

from tuneport.runtime.predictor import Predictor

HEADROOM_BYTES = 4 << 20


def test_too_little_memory_outside_of_the_engine_is_503(tiny_artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with local_service(tiny_artifact) as service:
        with monkeypatch.context() as patch:
            patch.setattr(Predictor, "parse_inputs", lambda *_: (_ for _ in ()).throw(MemoryError))
            assert_error(service.post(), 503, "out_of_memory")
        assert service.post().status_code == 200


@pytest.mark.slow
def test_an_oversized_batch_is_refused_and_the_service_lives(tiny_artifact: Path, tmp_path: Path) -> None:
    """The worker may map no more than a few megabytes above what it has, which a large batch exceeds."""
    settings = {"TUNEPORT_MAX_BATCH_TOKENS": "1000000", "TUNEPORT_MAX_CLIENT_BATCH_SIZE": "10000"}
    with served(tiny_artifact, tmp_path / "log", **settings) as (tree, ports):
        url, worker = f"http://{HOST}:{ports[0]}/predict", tree[-1]
        texts = ["the team won the game " * 20] * 4000
        small = httpx.post(url, json={"inputs": "bank"}, timeout=60).json()["predictions"]
        _, hard = resource.prlimit(worker.pid, resource.RLIMIT_AS)
        limit = worker.memory_info().vms + HEADROOM_BYTES
        resource.prlimit(worker.pid, resource.RLIMIT_AS, (limit, hard))
        statuses = [httpx.post(url, json={"inputs": texts}, timeout=60).status_code for _ in range(3)]
        assert set(statuses) <= {200, 413, 503}
        assert 503 in statuses
        resource.prlimit(worker.pid, resource.RLIMIT_AS, (hard, hard))
        assert httpx.post(url, json={"inputs": "bank"}, timeout=60).json()["predictions"] == small
        assert httpx.post(url, json={"inputs": texts}, timeout=60).status_code == 200
        assert len(alive(tree)) == len(tree)
