"""A service's models in Triton's words, for both protocols: the index, and a model's configuration."""

import asyncio
from typing import Any

from tuneport.tasks import task_spec

from .. import tensors
from ..admission import AdmissionController
from ..open_inference import PLATFORM
from .registry import Model, ModelRegistry
from .repository import list_available

TYPES = {tensors.BYTES: "TYPE_STRING", tensors.FP32: "TYPE_FP32"}
READY = "READY"
LOADING = "every worker opens it and runs its golden cases"


async def describe_index(models: ModelRegistry, *, only_ready: bool = False) -> list[dict[str, str]]:
    """List the versions that are loaded or being loaded, and those that the model repository has beside them."""
    listed = [_state(model, admission) for model in models for admission in model.versions]
    if only_ready:
        return [each for each in listed if each["state"] == READY]
    known = {(each["name"], each["version"]) for each in listed}
    for name, version in sorted(models.loading - known):
        known.add((name, version))
        listed.append({"name": name, "version": version, "state": "LOADING", "reason": LOADING})
    for each in await asyncio.to_thread(list_available, models.worker.settings.model_repository):
        key = each.manifest.name, each.manifest.version
        if key not in known:
            known.add(key)
            reason = models.failures.get(key, "not loaded")
            listed.append({"name": key[0], "version": key[1], "state": "UNAVAILABLE", "reason": reason})
    return listed


def describe_config(admission: AdmissionController) -> dict[str, Any]:
    """Describe a model's tensors and limits, and the execution of the variant that serves."""
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


def _state(model: Model, admission: AdmissionController) -> dict[str, str]:
    """Return an entry of the index; the reason says which requests a version gets that does not simply serve."""
    manifest, is_ready = admission.manifest, admission.ready
    reason = "" if is_ready else "not ready"
    if is_ready and admission is model.shadow:
        reason = f"shadow of {model.serving.manifest.version}"
    elif is_ready and admission is model.candidate:
        reason = f"answers {model.weight:g} of the requests"
    state = {"state": READY if is_ready else "UNAVAILABLE", "reason": reason}
    return {"name": manifest.name, "version": manifest.version, **state}


def _tensor(name: str, datatype: str) -> dict[str, Any]:
    return {"name": name, "data_type": TYPES[datatype], "dims": [-1]}
