"""One run of the benchmark: rounds in which each service is started, loaded and stopped."""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import httpx
import psutil
from prometheus_client.parser import text_string_to_metric_families

from tuneport.folders import check_out, new_folder
from tuneport.schema.loading import load_manifest
from tuneport.stages.serve.process import supervisor_command
from tuneport.stages.serve.supervisor import WORKER

from ..endpoint.processes import load_server, plan_load, start_server
from ..endpoint.rounds import in_order_of_round
from ..endpoint.targets import HOST, EndpointTarget, http_target
from ..load.plan import OK
from ..origin import origin_here
from ..report import REPORT
from ..tiny_service.artifact import build_tiny_artifact, tiny_texts
from .config import CaseResult, EngineKind, SharedEngineConfig, SharedEngineReport
from .paced_engine import BATCH_MS
from .report import write_report

NUM_TEXTS = 500
PACED_SERVICE = "tuneport.stages.benchmarks.shared_engine.paced_service"


@dataclass(frozen=True)
class Usage:
    """Processor time and memory of a service's processes, and what its metrics count."""

    worker_s: float
    engine_s: float
    worker_mib: float
    engine_mib: float
    inputs: float
    batches: float


def bench_shared_engine(
    config: SharedEngineConfig, progress: Callable[[str], object] = lambda _: None
) -> SharedEngineReport:
    """Measure, and write report.json and report.md into `config.out`; returns the report."""
    check_out(config.out, marker=REPORT, overwrite=True)
    with tempfile.TemporaryDirectory() as folder:
        artifact = config.artifact or build_tiny_artifact(Path(folder))
        manifest, texts = load_manifest(artifact), tiny_texts(NUM_TEXTS)
        cases = _cases(config)
        samples: dict[tuple[EngineKind, int], list[dict[str, float]]] = {case: [] for case in cases}
        for index in range(config.rounds):
            for case in in_order_of_round(cases, index):
                progress(f"round {index + 1} of {config.rounds}: {case[0]} engine, {case[1]} worker(s)")
                samples[case].append(_measure(config, _target(config, artifact, *case), texts))
    report = SharedEngineReport(
        model=f"{manifest.name} {manifest.version}",
        config=config,
        **origin_here(),
        cases=tuple(_summarize(*case, samples[case]) for case in cases),
    )
    with new_folder(config.out, marker=REPORT, overwrite=True) as out:
        write_report(out, report)
    return report


def _cases(config: SharedEngineConfig) -> list[tuple[EngineKind, int]]:
    shared: list[tuple[EngineKind, int]] = [
        (engine, workers) for engine in ("shared", "paced") for workers in range(1, config.workers + 1)
    ]
    return [("own", 1), *shared]


def _target(config: SharedEngineConfig, artifact: Path, engine: EngineKind, workers: int) -> EndpointTarget:
    def command(port: int) -> list[str]:
        words = supervisor_command(artifact, host=HOST, port=port)
        return [PACED_SERVICE if engine == "paced" and word.endswith(".supervisor") else word for word in words]

    environment = {
        "TUNEPORT_WORKERS": str(workers),
        "TUNEPORT_ENGINES": "0" if engine == "own" else "1",
        "TUNEPORT_MAX_BATCH_TOKENS": str(config.batch_tokens),
        BATCH_MS: str(config.batch_ms),
    }
    return replace(http_target(artifact, None), name=f"{engine} {workers}", command=command, environment=environment)


def _measure(config: SharedEngineConfig, target: EndpointTarget, texts: Sequence[str]) -> dict[str, float]:
    """Start a service, load it and stop it."""
    with start_server(target) as server:
        plan = plan_load(target, server.port, texts, connections=config.connections, seconds=config.seconds)
        load_server(target, plan.model_copy(update={"seconds": 0.5}))
        before = _usage(server.pid, server.http_port)
        load = load_server(target, plan)
        after = _usage(server.pid, server.http_port)
    return {
        "requests_per_s": load.answered / load.seconds,
        "latency_ms_p50": median(load.latencies_ms),
        "worker_ms": 1000 * (after.worker_s - before.worker_s) / load.sent,
        "engine_ms": 1000 * (after.engine_s - before.engine_s) / load.sent,
        "client_ms": 1000 * load.client_cpu_s / max(1, load.answered),
        "rows_per_batch": (after.inputs - before.inputs) / max(1.0, after.batches - before.batches),
        "worker_mib": after.worker_mib,
        "engine_mib": after.engine_mib,
        "errors": sum(count for status, count in load.statuses.items() if status != OK),
    }


def _usage(supervisor: int, port: int) -> Usage:
    workers: list[Any] = []
    engines: list[Any] = []
    for process in psutil.Process(supervisor).children():
        (workers if WORKER in process.cmdline() else engines).append(process)
    counts = {"tuneport_inputs_total": 0.0, "tuneport_batches_total": 0.0}
    for family in text_string_to_metric_families(httpx.get(f"http://{HOST}:{port}/metrics", timeout=30).text):
        for sample in family.samples:
            if sample.name in counts:
                counts[sample.name] += sample.value
    return Usage(
        worker_s=sum(_cpu_s(each) for each in workers),
        engine_s=sum(_cpu_s(each) for each in engines),
        worker_mib=max(map(_mib, workers)),
        engine_mib=max(map(_mib, engines), default=0.0),
        inputs=counts["tuneport_inputs_total"],
        batches=counts["tuneport_batches_total"],
    )


def _cpu_s(process: Any) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _mib(process: Any) -> float:
    return float(process.memory_info().rss) / 2**20


def _summarize(engine: EngineKind, workers: int, samples: Sequence[dict[str, float]]) -> CaseResult:
    medians = {name: round(median(sample[name] for sample in samples), 3) for name in samples[0]}
    errors = sum(int(sample["errors"]) for sample in samples)
    return CaseResult.model_validate({"engine": engine, "workers": workers, **medians, "errors": errors})
