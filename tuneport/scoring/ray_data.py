"""Runs chunks on a Ray cluster through Ray Data, which starts the work of a lost node again on another.

Every node needs tuneport, the artifact, the input, and the folder of the output, under the same paths.
"""

import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import numpy as np

from tuneport.errors import EngineError
from tuneport.runtime.availability import obstacles
from tuneport.schema.artifact import Manifest, Variant
from tuneport.scoring.journal import Part
from tuneport.scoring.plan import Plan
from tuneport.scoring.rows import Chunk
from tuneport.scoring.scorer import ChunkScorer

CONNECT_S = 10.0
GPU_SHARE = 0.001
"""Of a GPU, for a task that looks at it."""


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


def variant_on_ray(manifest: Manifest, address: str) -> Variant:
    """Return the default variant or, where not every node of the cluster at `address` runs it, the best that they do.

    A variant for GPUs needs the nodes that have one. Where none runs it is the default variant: opening it says what is
    missing. Raises EngineError if Ray is not installed or cannot be reached.
    """
    with _connected(address) as ray:
        nodes = _working_nodes(ray)
        found = ray.get([_obstacles_on(node, manifest, ray) for node in nodes])
    with_gpu = [each for node, each in zip(nodes, found, strict=True) if _has_gpu(node)]
    able = []
    for variant in manifest.variants:
        concerned = found if variant.execution.device == "cpu" else with_gpu
        if concerned and all(each[variant.name] is None for each in concerned):
            able.append(variant.name)
    return manifest.best(able) or manifest.variant()


def _obstacles_on(node: dict[str, Any], manifest: Manifest, ray: Any) -> Any:
    """Ask a node which variants it runs; returns Ray's reference to what `obstacles` returns there."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
    share = GPU_SHARE if _has_gpu(node) else 0  # from a task without a share Ray hides the GPUs
    return ray.remote(obstacles).options(num_cpus=0, num_gpus=share, scheduling_strategy=there).remote(manifest)


def _has_gpu(node: dict[str, Any]) -> bool:
    return bool(node["Resources"].get("GPU"))


def run_on_ray(plan: Plan, chunks: Sequence[Chunk], address: str, workers: int | None, device: str) -> Iterator[Part]:
    """Score chunks on the cluster at `address`; yields parts as they are completed.

    Raises EngineError if Ray is not installed or cannot be reached.
    """
    with _connected(address) as ray:
        ray.data.DataContext.get_current().enable_progress_bars = False
        size = min(workers or len(_working_nodes(ray)), len(chunks))
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


@contextmanager
def _connected(address: str) -> Iterator[Any]:
    """Yield the module `ray`, connected with a cluster; raises EngineError if it is not there or cannot be reached."""
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
        yield ray
    finally:
        ray.shutdown()


def _working_nodes(ray: Any) -> list[dict[str, Any]]:
    """Return the nodes that run actors: those with processors."""
    return [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]


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
