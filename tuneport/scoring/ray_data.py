"""Runs chunks on a Ray cluster through Ray Data, which starts the work of a lost node again on another.

Every node needs tuneport, the artifact, the input, and the folder of the output, under the same paths.
"""

import socket
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from tuneport.errors import EngineError
from tuneport.scoring.journal import Part
from tuneport.scoring.plan import Plan
from tuneport.scoring.rows import Chunk
from tuneport.scoring.scorer import ChunkScorer

CONNECT_S = 10.0


class RayScorer:
    """Scores chunks in an actor."""

    def __init__(self, plan: Plan) -> None:
        """Open the engine."""
        self._scorer = ChunkScorer(plan)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Score the chunks of a batch, and return their parts."""
        rows = zip(*(values.tolist() for values in batch.values()), strict=True)
        chunks = [Chunk(**dict(zip(batch, row, strict=True))) for row in rows]
        parts = [asdict(part) for part in self._scorer.score(chunks)]
        return {name: np.array([part[name] for part in parts]) for name in parts[0]}


def run_on_ray(plan: Plan, chunks: Sequence[Chunk], address: str, workers: int | None, device: str) -> Iterator[Part]:
    """Score chunks on the cluster at `address`; yields parts as they are completed.

    Raises EngineError if Ray is not installed or cannot be reached.
    """
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise EngineError(f"--ray needs {error.name}", "pip install 'tuneport[ray]'") from error
    _check_reachable(address)
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except Exception as error:  # Ray's exceptions have no common base
        raise _unreachable(address, error) from error
    try:
        ray.data.DataContext.get_current().enable_progress_bars = False
        nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
        size = min(workers or len(nodes), len(chunks))
        resources = {"num_cpus": plan.threads or 1} | ({"num_gpus": 1} if device != "cpu" else {})
        dataset = ray.data.from_items([asdict(chunk) for chunk in chunks], override_num_blocks=len(chunks))
        parts = dataset.map_batches(
            RayScorer,
            fn_constructor_args=(plan,),
            batch_size=None,
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=size, initial_size=size),
            **resources,
        )
        for row in parts.iter_rows():
            yield Part(**row)
    finally:
        ray.shutdown()


def _check_reachable(address: str) -> None:
    """Raise EngineError if nothing listens at HOST:PORT, for which Ray itself would wait for minutes."""
    host, colon, port = address.rpartition(":")
    if colon and port.isdigit() and "/" not in host:
        try:
            socket.create_connection((host, int(port)), CONNECT_S).close()
        except OSError as error:
            raise _unreachable(address, error) from error


def _unreachable(address: str, error: Exception) -> EngineError:
    problem = f"no Ray cluster answers at {address!r} ({' '.join(str(error).split())[:200]})"
    return EngineError(problem, "start one with `ray start --head`, or correct --ray")
