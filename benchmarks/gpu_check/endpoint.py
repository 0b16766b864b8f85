"""Step `endpoint`: requests/s and latency of the service, whose workers share one engine, against their floors.

    python -m tuneport.stages.benchmarks.gpu_check.endpoint ARTIFACT CHECKPOINT DEVICE RESULT

The service has half of the processors as workers. Fails if an answer is wrong, a request is not answered, or, on a GPU,
a floor is missed.
"""

import signal
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np

from tuneport.errors import TuneportError
from tuneport.host import usable_cores
from tuneport.schema.torch_setup import TorchDevice

from ..config import EndpointConfig
from ..endpoint.check import check_agreement
from ..endpoint.processes import RunningServer, load_server, plan_load, start_server
from ..endpoint.setup import prepare
from ..endpoint.short import select_short_text, time_runner
from ..endpoint.targets import EndpointTarget
from .clients import Clients, check_answered, rate_per_s
from .config import SCALES, Scale
from .endpoint_report import EndpointFigures
from .steps import write_result

CORES_PER_WORKER, CORES_PER_CLIENT = 2, 8
"""A request takes a worker several times as long as the client, and the engine process needs processors, too."""


def measure_endpoint(artifact: Path, checkpoint: Path, device: TorchDevice) -> Iterator[EndpointFigures]:
    """Yield the figures after each measurement; raises TuneportError for a service that is wrong or fails."""
    scale, cores = SCALES[device], usable_cores()
    setup = prepare(EndpointConfig(artifact=artifact, checkpoint=checkpoint, num_inputs=scale.bench_inputs))
    workers = max(2, cores // CORES_PER_WORKER)
    clients = Clients(max(1, cores // CORES_PER_CLIENT), scale.endpoint_connections, scale.load_seconds)
    figures = EndpointFigures(
        device=device,
        variant=setup.variant.name,
        workers=workers,
        clients=clients.processes,
        connections=clients.connections,
        mean_tokens=round(setup.mean_tokens, 1),
        client_ceiling_per_s=clients.ceiling_per_s(setup.inputs),
    )
    yield figures
    short = select_short_text(setup.runner.task, setup.inputs)
    if short:
        engine_ms, _ = time_runner(setup.runner, short[1], scale.load_seconds)
        figures = figures.model_copy(update={"short_tokens": len(short[1]), "engine_ms_p50": engine_ms})
    shared = {"TUNEPORT_WORKERS": str(workers), "TUNEPORT_ENGINES": "1"}
    target = replace(setup.http, environment={**setup.http.environment, **shared})
    with start_server(target) as server:
        check_agreement(target, server.port, setup.runner.task, setup.expected, setup.least_agreement(target))
        loads = clients.load(target, server.port, setup.inputs)
        check_answered(loads)
        latencies_ms = [latency for load in loads for latency in load.latencies_ms]
        p50 = round(float(np.median(latencies_ms)), 3) if latencies_ms else None
        figures = figures.model_copy(update={"requests_per_s": rate_per_s(loads), "latency_ms_p50": p50})
        yield figures
        if short:
            figures = figures.model_copy(update={"short_ms_p50": _latency_ms(target, server, short[0], scale)})
            yield figures


def _latency_ms(target: EndpointTarget, server: RunningServer, text: str, scale: Scale) -> float:
    """Return p50 of one text on one connection, in ms."""
    plan = plan_load(target, server.port, [text], connections=1, seconds=scale.load_seconds)
    return round(float(np.median(load_server(target, plan).latencies_ms)), 3)


def main() -> None:
    """Measure, write the figures as they come, and exit with 1 if a floor is missed or was not measured."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that servers are stopped, too
    artifact, checkpoint, device, result = sys.argv[1:]
    target: TorchDevice = "cuda" if device == "cuda" else "cpu"
    figures: EndpointFigures | None = None
    try:
        for figures in measure_endpoint(Path(artifact), Path(checkpoint), target):
            write_result(result, figures.model_dump_json())
    except (TuneportError, httpx.HTTPError) as error:
        sys.exit(f"error: {error}")
    if figures and (unmet := figures.unmet()):
        sys.exit("\n".join(unmet))


if __name__ == "__main__":
    main()
