"""What Triton adds to the Open Inference Protocol over HTTP: a model's configuration and statistics, and the index.

`grpc/model_management.py` has the same for gRPC.

The statistics are those of all workers since the start, from the metrics that Prometheus reads.
"""

import asyncio
from collections import defaultdict
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tuneport.schema.artifact import Manifest
from tuneport.tasks import task_spec

from .. import tensors
from ..admission import AdmissionController
from ..metrics import CANCELLED, Metrics
from ..open_inference import PLATFORM, check_model
from .requests import admission_of
from .responses import json_response

INFERENCE = ("predict", "infer", "openai")
"""Operations of requests that the model answers."""
TYPES = {tensors.BYTES: "TYPE_STRING", tensors.FP32: "TYPE_FP32"}


async def index(request: Request) -> Response:
    """List the models of this service, of which there is one."""
    return json_response(describe_index(admission_of(request)))


async def model_config(request: Request) -> Response:
    """Return the model's tensors and limits, and the execution of the variant that serves."""
    _checked_manifest(request)
    return json_response(describe_config(admission_of(request)))


async def model_statistics(request: Request) -> Response:
    """Return the model's counts and times since the start."""
    _checked_manifest(request)
    return json_response({"model_stats": await describe_statistics(admission_of(request))})


def describe_index(admission: AdmissionController) -> list[dict[str, Any]]:
    """List the models for both protocols."""
    manifest, is_ready = admission.manifest, admission.ready
    state = {"state": "READY" if is_ready else "UNAVAILABLE", "reason": "" if is_ready else "not ready"}
    return [{"name": manifest.name, "version": manifest.version, **state}]


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


async def describe_statistics(admission: AdmissionController) -> list[dict[str, Any]]:
    """Return the counts and times of each model for both protocols."""
    statistics = await asyncio.to_thread(read_statistics, admission.metrics)  # NVML may take a while
    return [{"name": admission.manifest.name, "version": admission.manifest.version, **statistics}]


def read_statistics(metrics: Metrics) -> dict[str, Any]:
    """Compute Triton's statistics of a model.

    `success` has the times of all requests, those that failed included, because the metric does not tell them apart;
    `compute_infer` counts batches, and `queue` rows.
    """
    from prometheus_client.parser import text_string_to_metric_families

    counts: dict[str, float] = defaultdict(float)
    for family in text_string_to_metric_families(metrics.page()[0].decode()):
        for sample in family.samples:
            if sample.labels.get("operation", INFERENCE[0]) in INFERENCE and "le" not in sample.labels:
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


def _tensor(name: str, datatype: str) -> dict[str, Any]:
    return {"name": name, "data_type": TYPES[datatype], "dims": [-1]}


def _checked_manifest(request: Request) -> Manifest:
    """Return the manifest; NotFound if the path names another model or version."""
    manifest = admission_of(request).manifest
    if "model" in request.path_params:
        check_model(manifest, request.path_params["model"], request.path_params.get("version"))
    return manifest


routes = [
    Route("/v2/repository/index", index, methods=["GET", "POST"]),
    Route("/v2/models/stats", model_statistics),
    *(
        Route(f"/v2/models/{{model}}{version}{path}", endpoint)
        for version in ("", "/versions/{version}")
        for path, endpoint in (("/config", model_config), ("/stats", model_statistics))
    ),
]
