"""What Triton adds to the Open Inference Protocol over HTTP: a model's configuration and statistics, and the index.

`grpc/model_management.py` has the same for gRPC.

The statistics are those of all workers since the start, from the metrics that Prometheus reads.
"""

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tuneport.tasks import task_spec

from .. import tensors
from ..admission import AdmissionController
from ..metrics import CANCELLED, Metrics
from ..models.registry import Model, ModelRegistry
from ..models.repository import list_available
from ..open_inference import PLATFORM
from .requests import admission_of, models_of
from .responses import json_response

INFERENCE = ("predict", "infer", "openai")
"""Operations of requests that the model answers."""
TYPES = {tensors.BYTES: "TYPE_STRING", tensors.FP32: "TYPE_FP32"}


async def index(request: Request) -> Response:
    """List the versions that are loaded, and those that the model repository has beside them."""
    return json_response(await describe_index(models_of(request)))


async def model_config(request: Request) -> Response:
    """Return the model's tensors and limits, and the execution of the variant that serves."""
    return json_response(describe_config(admission_of(request)))


async def model_statistics(request: Request) -> Response:
    """Return the counts and times of a model, or of all, since the start."""
    admissions = (admission_of(request),) if "model" in request.path_params else models_of(request).versions
    return json_response({"model_stats": await describe_statistics(admissions)})


async def describe_index(models: ModelRegistry) -> list[dict[str, str]]:
    """List for both protocols the versions that are loaded, and those that the model repository has beside them."""
    listed = [_state(model, admission) for model in models for admission in model.versions]
    known = {(each["name"], each["version"]) for each in listed}
    for each in await asyncio.to_thread(list_available, models.worker.settings.model_repository):
        key = each.manifest.name, each.manifest.version
        if key not in known:
            known.add(key)
            reason = models.failures.get(key, "not loaded")
            listed.append({"name": key[0], "version": key[1], "state": "UNAVAILABLE", "reason": reason})
    return listed


def describe_config(admission: AdmissionController) -> dict[str, Any]:
    """Describe the model in Triton's names for both protocols."""
    predictor, settings = admission.inference.predictor, admission.settings
    manifest = predictor.manifest
    execution, limits = predictor.variant.execution, predictor.runner.limits
    parameters = {
        "task": manifest.task,
        "variant": predictor.variant.name,
        "precision": execution.precision,
        "device": execution.device,
        "max_length": manifest.processing.max_length,
        "max_batch_tokens": limits.tokens,
        "max_queue_ms": settings.max_queue_ms,
    }
    return {
        "name": manifest.name,
        "platform": PLATFORM,
        "backend": execution.engine,
        "version_policy": {"specific": {"versions": [manifest.version]}},
        "max_batch_size": settings.max_client_batch_size,
        "input": [_tensor(name, tensors.BYTES) for name in tensors.fields_of(manifest)],
        "output": [_tensor(*each) for each in tensors.output_datatypes(manifest).items()],
        "instance_group": [
            {
                "kind": "KIND_CPU" if execution.device == "cpu" else "KIND_GPU",
                "count": predictor.runner.streams * (settings.engine_count or settings.worker_count),
            }
        ],
        "parameters": {name: {"string_value": str(value)} for name, value in parameters.items()},
        "model_transaction_policy": {"decoupled": task_spec(manifest.task).streams},
    }


async def describe_statistics(admissions: Sequence[AdmissionController]) -> list[dict[str, Any]]:
    """Return the counts and times of each version for both protocols."""
    return await asyncio.to_thread(_read_all_statistics, admissions)  # NVML may take a while


def read_statistics(metrics: Metrics) -> dict[str, Any]:
    """Compute Triton's statistics of a model.

    `success` has the times of all requests, those that failed included, because the metric does not tell them apart;
    `compute_infer` counts batches, and `queue` rows.
    """
    from prometheus_client.parser import text_string_to_metric_families

    counts: dict[str, float] = defaultdict(float)
    for family in text_string_to_metric_families(metrics.page()[0].decode()):
        for sample in family.samples:
            is_of_model = metrics.labels.items() <= sample.labels.items()
            is_inference = sample.labels.get("operation", INFERENCE[0]) in INFERENCE
            if is_of_model and is_inference and "le" not in sample.labels:
                name = sample.name.removeprefix("tuneport_")
                if name == "requests_total":
                    name = outcome_of(sample.labels["status"])
                counts[name] += sample.value
    return {
        "inference_count": int(counts["inputs_total"]),
        "execution_count": int(counts["batches_total"]),
        "inference_stats": {
            "success": _duration(counts["success"], counts["request_seconds_sum"]),
            "fail": _duration(counts["fail"], 0),
            "cancel": _duration(counts["cancel"], 0),
            "queue": _duration(counts["queue_seconds_count"], counts["queue_seconds_sum"]),
            "compute_infer": _duration(counts["batch_seconds_count"], counts["batch_seconds_sum"]),
        },
    }


def outcome_of(status: str) -> str:
    """Return the statistic that counts a request with a status of HTTP or gRPC."""
    if status in CANCELLED:
        return "cancel"
    return "success" if status == "OK" or status.startswith("2") else "fail"


def _duration(count: float, seconds: float) -> dict[str, int]:
    return {"count": int(count), "ns": int(seconds * 1e9)}


def _state(model: Model, admission: AdmissionController) -> dict[str, str]:
    """Return an entry of the index; the reason says which requests a version gets that does not simply serve."""
    manifest, is_ready = admission.manifest, admission.ready
    reason = "" if is_ready else "not ready"
    if is_ready and admission is model.shadow:
        reason = f"shadow of {model.serving.manifest.version}"
    elif is_ready and admission is model.candidate:
        reason = f"answers {model.weight:g} of the requests"
    state = {"state": "READY" if is_ready else "UNAVAILABLE", "reason": reason}
    return {"name": manifest.name, "version": manifest.version, **state}


def _read_all_statistics(admissions: Sequence[AdmissionController]) -> list[dict[str, Any]]:
    return [
        {"name": each.manifest.name, "version": each.manifest.version, **read_statistics(each.metrics)}
        for each in admissions
    ]


def _tensor(name: str, datatype: str) -> dict[str, Any]:
    return {"name": name, "data_type": TYPES[datatype], "dims": [-1]}


routes = [
    Route("/v2/repository/index", index, methods=["GET", "POST"]),
    Route("/v2/models/stats", model_statistics),
    *(
        Route(f"/v2/models/{{model}}{version}{path}", endpoint)
        for version in ("", "/versions/{version}")
        for path, endpoint in (("/config", model_config), ("/stats", model_statistics))
    ),
]
