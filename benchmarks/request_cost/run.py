"""The engine alone, then rounds in which every server is started and loaded in turn."""

import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

from tuneport.errors import TuneportError
from tuneport.folders import check_out, new_folder
from tuneport.runtime.predictor import Predictor
from tuneport.schema.artifact import Manifest
from tuneport.schema.loading import load_manifest

from ..endpoint.processes import RunningServer, load_server, plan_load, resource_usage, start_server
from ..endpoint.rounds import in_order_of_round
from ..endpoint.targets import EndpointTarget
from ..load.plan import OK
from ..origin import origin_here
from ..report import REPORT
from ..tiny_service.artifact import build_tiny_artifact, tiny_texts
from .config import EngineResult, RequestCostConfig, RequestCostReport, ServerResult
from .layers import measure_layers
from .report import write_report
from .targets import BARE, request_cost_targets

NUM_TEXTS = 500
LARGE_CONNECTIONS = 4
"""Connections of the load with large requests: enough for every thread of a server."""
MAX_WRONG_SHARE = 0.01
TIMED_S = 1.0
Sample = dict[str, float]


def bench_request_cost(
    config: RequestCostConfig, progress: Callable[[str], object] = lambda _: None
) -> RequestCostReport:
    """Measure, and write report.json and report.md into `config.out`; returns the report.

    Raises TuneportError for a server that does not start, or that answers otherwise than the model.
    """
    check_out(config.out, marker=REPORT, overwrite=True)
    with tempfile.TemporaryDirectory() as folder:
        progress("exporting the tiny model" if config.artifact is None else "opening the artifact")
        artifact = config.artifact or build_tiny_artifact(Path(folder))
        manifest, texts = load_manifest(artifact), tiny_texts(NUM_TEXTS)
        predictor = Predictor(artifact)
        expected = [prediction["label"] for prediction in predictor.predict(texts)]
        engine = measure_engine(predictor, texts, config.texts)
        del predictor
        progress("the layers of a request")
        layers = measure_layers(artifact, texts[0])
        servers = run_rounds(config, chosen_targets(config, artifact, manifest), texts, expected, progress)
    report = RequestCostReport(
        model=f"{manifest.name} {manifest.version}",
        config=config,
        **origin_here(),
        engine=engine,
        servers=servers,
        layers=layers,
    )
    with new_folder(config.out, marker=REPORT, overwrite=True) as out:
        write_report(out, report)
    return report


def measure_engine(predictor: Predictor, texts: Sequence[str], batch: int) -> EngineResult:
    """Time the engine without a service, on all cores."""
    runner = predictor.runner
    rows = [row for rows in runner.task.encode(list(texts)) for row in rows]
    batches = [rows[at : at + batch] for at in range(0, len(rows) - batch + 1, batch)]
    chunks = [texts[at : at + batch] for at in range(0, len(texts) - batch + 1, batch)]
    footprint = predictor.variant.evidence.footprint
    return EngineResult(
        latency_ms_p50=round(1000 * median(_times(runner.run_batch, [[row] for row in rows])), 3),
        texts_per_s=round(batch / median(_times(runner.run, batches)), 1),
        texts_per_s_from_text=round(batch / median(_times(predictor.predict, chunks)), 1),
        memory_mib=footprint.memory_mib,
    )


def run_rounds(
    config: RequestCostConfig,
    targets: Sequence[EndpointTarget],
    texts: Sequence[str],
    expected: Sequence[str],
    progress: Callable[[str], object],
) -> tuple[ServerResult, ...]:
    """Start all servers, load them in turn, and stop them, once a round; in reverse order every other round."""
    samples: dict[str, list[Sample]] = defaultdict(list)
    for index in range(config.rounds):
        with ExitStack() as stack:
            order = in_order_of_round(targets, index)
            servers = {target.name: stack.enter_context(start_server(target)) for target in order}
            for target in order:
                progress(f"round {index + 1} of {config.rounds}: {target.name}")
                samples[target.name].append(_measure(config, target, servers[target.name], texts, expected))
    return tuple(_summarize(target.name, samples[target.name]) for target in targets)


def _measure(
    config: RequestCostConfig,
    target: EndpointTarget,
    server: RunningServer,
    texts: Sequence[str],
    expected: Sequence[str],
) -> Sample:
    """Load a server in three ways: many connections, one connection, and large requests."""
    many = plan_load(target, server.port, texts, connections=config.connections, seconds=config.seconds)
    before = resource_usage(server.pid)
    load = load_server(target, many)
    usage = resource_usage(server.pid)
    check_responses(target, load.last_bodies, expected)
    one = load_server(target, plan_load(target, server.port, texts, connections=1, seconds=config.seconds / 2))
    sample = {
        "requests_per_s": load.answered / load.seconds,
        "cpu_ms_per_request": 1000 * (usage.cpu_s - before.cpu_s) / load.sent,
        "latency_ms_p50": median(one.latencies_ms),
        "ready_s": server.ready_s,
        "errors": sum(count for each in (load, one) for status, count in each.statuses.items() if status != OK),
    }
    if target.protocol == "http":
        chunks: list[Any] = [
            list(texts[at : at + config.texts]) for at in range(0, len(texts) - config.texts + 1, config.texts)
        ]
        plan = plan_load(target, server.port, chunks, connections=LARGE_CONNECTIONS, seconds=config.seconds / 2)
        large = load_server(target, plan)
        sample["texts_per_s"] = config.texts * large.answered / large.seconds
        sample["errors"] += sum(count for status, count in large.statuses.items() if status != OK)
    usage = resource_usage(server.pid)
    return {**sample, "worker_mib": usage.worker_mib, "total_mib": usage.total_mib}


def check_responses(target: EndpointTarget, bodies: dict[int, bytes], expected: Sequence[str]) -> None:
    """Raise TuneportError if a server answers otherwise than the model."""
    wrong = sum(target.decode_response(body)["label"] != expected[index] for index, body in bodies.items())
    if wrong > MAX_WRONG_SHARE * len(bodies):
        raise TuneportError(f"{target.name} answers {wrong} of {len(bodies)} texts wrongly", "do not trust its speed")


def chosen_targets(config: RequestCostConfig, artifact: Path, manifest: Manifest) -> list[EndpointTarget]:
    """Return the servers that the config chooses, the bare one first; raises TuneportError for an unknown one."""
    targets = request_cost_targets(artifact, manifest)
    if unknown := [name for name in config.servers if not any(name in target.name for target in targets)]:
        known = ", ".join(target.name for target in targets)
        raise TuneportError(f"there is no server {unknown[0]!r}", f"known: {known}")
    chosen = config.servers or ("",)
    return [target for target in targets if target.name == BARE or any(name in target.name for name in chosen)]


def _times(function: Callable[[Any], object], arguments: Sequence[Any]) -> list[float]:
    """Return the seconds of each call, over the arguments in turn, after a warm-up as long as a quarter of them."""
    seconds: list[float] = []
    ends_at = time.perf_counter() + TIMED_S
    while time.perf_counter() < ends_at:
        for argument in arguments:
            began = time.perf_counter()
            function(argument)
            seconds.append(time.perf_counter() - began)
    return seconds[len(seconds) // 4 :]


def _summarize(name: str, samples: Sequence[Sample]) -> ServerResult:
    medians: dict[str, float | None] = {"texts_per_s": None}
    medians |= {key: round(median(sample[key] for sample in samples), 3) for key in samples[0]}
    errors = sum(int(sample["errors"]) for sample in samples)
    return ServerResult.model_validate({"name": name, **medians, "errors": errors})
