"""The Open Inference Protocol v2 as HTTP and gRPC share it: versions, parameters, and inference."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tuneport.errors import InputError
from tuneport.runtime.tasks.inputs import check_number

from .admission import AdmissionController
from .models.registry import ModelRegistry
from .tensors import Tensor, tensors_from_predictions

PLATFORM = "tuneport"
EXTENSIONS = ("binary_tensor_data",)
PROTOCOL_PARAMETERS = frozenset(
    {
        "binary_data_output",
        "headers",
        "priority",
        "sequence_end",
        "sequence_id",
        "sequence_start",
        "timeout",
        "triton_enable_empty_final_response",
    }
)
"""Parameters of a request that are the protocol's; the others are the task's."""
OUTPUT_PARAMETERS = frozenset({"binary_data"})
MAX_TIMEOUT_DIGITS = 18


def check_output_parameters(output: str, names: Iterable[str]) -> None:
    """Raise InputError for parameters of a requested output that have no effect here, as `classification` has none."""
    if unknown := [name for name in names if name not in OUTPUT_PARAMETERS]:
        problem = f"the output {output[:40]!r} has the parameter {unknown[0][:40]!r}"
        raise InputError(problem, "leave it out; for several labels send the request's parameter top_k")


def versions_of(models: ModelRegistry, name: str) -> list[str]:
    """List the versions of a model that are loaded."""
    model = models.get(name)
    return [version.manifest.version for version in model.versions] if model else []


def timeout_s(parameters: Mapping[str, Any]) -> float | None:
    """Return the request's own `timeout` parameter, given in microseconds, in seconds; None without one or for 0."""
    micros = parameters.get("timeout")
    if micros is None or micros == 0:
        return None
    digits = str(micros) if type(micros) is not float else f"{micros:.0f}" if micros.is_integer() else ""
    if type(micros) not in (int, float, str) or not digits.isascii() or not digits.isdigit():
        raise InputError('the parameter "timeout" is not a whole number', "send microseconds")
    return int(digits[:MAX_TIMEOUT_DIGITS]) / 1e6


def task_parameters(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters of a request that are the task's."""
    return {name: value for name, value in parameters.items() if name not in PROTOCOL_PARAMETERS}


def shortest_timeout_s(parameters: Mapping[str, Any], deadline_s: float | None) -> float | None:
    """Return the shorter one of a request's own `timeout` and of `deadline_s`, seconds from now; None without both."""
    return min((limit for limit in (timeout_s(parameters), deadline_s) if limit is not None), default=None)


async def infer(
    admission: AdmissionController,
    inputs: Sequence[Any],
    parameters: Mapping[str, Any],
    output_names: Sequence[str],
    deadline_s: float | None = None,
) -> list[Tensor]:
    """Answer inputs with the named output tensors, or with all if none is named.

    The request's `timeout` parameter and `deadline_s`, seconds from now, both shorten the time limit.
    """
    check_number(len(parameters), "parameters")
    limit_s = shortest_timeout_s(parameters, deadline_s)
    results = await admission.infer(inputs, task_parameters(parameters), timeout_s=limit_s)
    predictions = [result.prediction for result in results]
    return tensors_from_predictions(admission.manifest, predictions, output_names)
