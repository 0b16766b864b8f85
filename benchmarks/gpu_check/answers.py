"""Step `answers`: serve the artifact, ask over HTTP and gRPC, and compare every answer with torch's.

    python -m tuneport.stages.benchmarks.gpu_check.answers ARTIFACT CHECKPOINT DEVICE RESULT

Fails if an answer is wrong, if the service runs another variant than the default one, or, on a GPU, if it takes no GPU
memory.
"""

import json
import signal
import sys
from pathlib import Path
from typing import Any

import httpx

from tuneport.errors import GateError, TuneportError
from tuneport.gpu import GpuMeter, visible_gpus
from tuneport.runtime.loading import open_task
from tuneport.schema.loading import load_golden, load_manifest
from tuneport.schema.torch_setup import TorchDevice

from ..baselines import open_baseline, read_workload
from ..config import BenchConfig
from ..endpoint.check import ExpectedPrediction, check_agreement, expected_predictions
from ..endpoint.processes import start_server
from ..endpoint.targets import HOST, grpc_target, http_target
from .config import SCALES
from .steps import write_result

MIN_GPU_MIB = 50.0
"""A process that uses CUDA takes at least its context, of hundreds of MiB."""
TIMEOUT_S = 30.0


def compare_answers(artifact: Path, checkpoint: Path, device: TorchDevice) -> dict[str, Any]:
    """Return what was compared; raises GateError for a wrong answer, a wrong variant, or a service off the GPU."""
    manifest = load_manifest(artifact)
    config = BenchConfig(artifact=artifact, checkpoint=checkpoint, num_inputs=SCALES[device].bench_inputs)
    baseline = open_baseline(manifest, config)
    task = open_task(artifact, manifest.task, manifest.labels, manifest.processing)
    texts = read_workload(manifest, baseline.task, config).inputs
    parsed = [task.parse_input(text) for text in texts]
    outputs = baseline.load_reference(device).outputs(task, parsed)
    expected = expected_predictions(task, load_golden(artifact))
    for text, parsed_input, rows, found in zip(texts, parsed, task.encode(parsed), outputs, strict=True):
        expected.append(ExpectedPrediction(text, task.decode(parsed_input, rows, found, task.parameters())))

    http = http_target(artifact, None)
    grpc = grpc_target(http, manifest)
    gpus = visible_gpus()
    meter = GpuMeter(gpus[0] if device == "cuda" and gpus else None)
    with meter.measure("service"), start_server(grpc) as server:
        served = _served(server.http_port, texts[0])
        agreement = {
            "HTTP": check_agreement(http, server.http_port, task, expected),
            "gRPC": check_agreement(grpc, server.port, task, expected),
        }
        ready_s = server.ready_s
    memory_mib = meter.usage("service").memory_mib
    if served != manifest.default_variant:
        raise GateError(f"the service runs {served} and not {manifest.default_variant}", "look at its log")
    if memory_mib is not None and memory_mib < MIN_GPU_MIB:
        raise GateError(f"the service takes {memory_mib:g} MiB of GPU memory: it runs elsewhere", "look at its log")
    return {
        "variant": served, "compared": len(expected), "agreement": agreement, "ready_s": round(ready_s, 1),
        "gpu_memory_mib": memory_mib,
    }  # fmt: skip


def _served(port: int, text: Any) -> str:
    """Return the name of the variant that answers."""
    response = httpx.post(f"http://{HOST}:{port}/predict", json={"inputs": text}, timeout=TIMEOUT_S)
    response.raise_for_status()
    return str(response.json()["model"]["variant"])


def main() -> None:
    """Compare and write the result; one line on stderr and exit code 1 if something is wrong."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the service is stopped, too
    artifact, checkpoint, device, result = sys.argv[1:]
    try:
        found = compare_answers(Path(artifact), Path(checkpoint), "cuda" if device == "cuda" else "cpu")
    except (TuneportError, httpx.HTTPError) as error:
        sys.exit(f"error: {error}")
    write_result(result, json.dumps(found))


if __name__ == "__main__":
    main()
