"""Tensors of the Open Inference Protocol to the inputs of `/predict`, and predictions to tensors."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from export.manifest import Manifest
from serve.errors import Refused
from serve.tasks.inputs import InputError

BYTES, FP32 = "BYTES", "FP32"
JSON = "json"
"""The tensor whose elements are inputs or predictions of `/predict` as JSON; every task has it."""
OWN_PARAMETERS = frozenset(
    {"binary_data_output", "sequence_id", "sequence_start", "sequence_end", "priority", "timeout", "headers"}
)
"""Parameters of a request that are the protocol's; the others are the task's."""
LENGTH_BYTES = 4
TIMEOUT_DIGITS = 18


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor of a request or of an answer, its elements row by row."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    elements: Sequence[Any]
    """bytes for BYTES, float for FP32."""


def fields_of(manifest: Manifest) -> tuple[str, ...]:
    """Name the input tensors of a model; `json` is accepted beside them."""
    if manifest.task == "question-answering":
        return ("question", "context")
    if manifest.task == "automatic-speech-recognition":
        return (JSON,)
    return ("text", "text_pair") if manifest.processing.accepts_pairs else ("text",)


def outputs_of(manifest: Manifest) -> dict[str, str]:
    """Name the output tensors of a model with their datatypes."""
    task, problem = manifest.task, manifest.processing.problem_type
    if task == "text-classification" and problem != "multi_label_classification":
        return {"label": BYTES, "score": FP32, JSON: BYTES}
    if task == "regression" and len(manifest.labels) <= 1:
        return {"score": FP32, JSON: BYTES}
    return {JSON: BYTES}


def check_count(name: str, datatype: str, shape: Sequence[Any], max_inputs: int) -> int:
    """Return how many elements an input tensor claims; refuse what is not BYTES [N] or [N, 1] before reading it."""
    if datatype != BYTES:
        raise InputError(f"tensor {name[:40]!r} has datatype {datatype[:20]!r}", "send BYTES")
    whole = all(type(size) is int and size >= 0 for size in shape)
    if not whole or len(shape) not in (1, 2) or (len(shape) == 2 and shape[1] != 1):
        raise InputError(f"tensor {name[:40]!r} has shape {list(shape)[:4]}", "send [N] or [N, 1]")
    if shape[0] > max_inputs:
        problem = f"tensor {name[:40]!r} claims {shape[0]} inputs, and the limit is {max_inputs}"
        raise Refused(413, "too_many_inputs", problem, "send several requests, or raise TUNEPORT_MAX_INPUTS")
    return int(shape[0])


def split_bytes(name: str, raw: bytes, count: int) -> list[bytes]:
    """Cut raw BYTES into elements, each behind its length in four little-endian bytes."""
    elements, at = [], 0
    for _ in range(count):
        size = int.from_bytes(raw[at : at + LENGTH_BYTES], "little")
        end = at + LENGTH_BYTES + size
        if end > len(raw):
            raise InputError(f"tensor {name[:40]!r} ends inside of an element", "write each element's length before it")
        elements.append(raw[at + LENGTH_BYTES : end])
        at = end
    if at != len(raw):
        raise InputError(f"tensor {name[:40]!r} has {len(raw) - at} bytes too many for its shape", "mend its shape")
    return elements


def join_elements(tensor: Tensor) -> bytes:
    """Write a tensor's elements in their raw form."""
    if tensor.datatype == FP32:
        return np.asarray(tensor.elements, "<f4").tobytes()
    return b"".join(len(each).to_bytes(LENGTH_BYTES, "little") + each for each in tensor.elements)


def inputs_of(manifest: Manifest, tensors: Sequence[Tensor]) -> list[Any]:
    """Turn input tensors into the inputs of `/predict`; an InputError names what is wrong."""
    fields = fields_of(manifest)
    given = {tensor.name: tensor for tensor in tensors}
    if len(given) != len(tensors) or set(given) not in ({*fields}, {JSON}):
        names = " and ".join(repr(field) for field in fields)
        has = ", ".join(repr(tensor.name[:40]) for tensor in tensors[:8]) or "none"
        raise InputError(f"the input tensors are {has}", f"send {names}" + ("" if JSON in fields else f", or {JSON!r}"))
    if JSON in given:
        return [_json(each, index) for index, each in enumerate(given[JSON].elements)]
    columns = [[_text(field, each, i) for i, each in enumerate(given[field].elements)] for field in fields]
    if len({len(column) for column in columns}) != 1:
        raise InputError("the input tensors differ in their number of elements", "send as many of each")
    if len(fields) == 1:
        return list(columns[0])
    return [dict(zip(fields, row, strict=True)) for row in zip(*columns, strict=True)]


def tensors_of(manifest: Manifest, predictions: Sequence[Any], wanted: Sequence[str]) -> list[Tensor]:
    """Turn predictions into the output tensors that are wanted, all of them when none is named."""
    has = outputs_of(manifest)
    if unknown := [name for name in wanted if name not in has]:
        raise InputError(f"there is no output {unknown[0][:40]!r}", f"known: {', '.join(has)}")
    if len(set(wanted)) != len(wanted):
        raise InputError("an output is asked for twice", "name each once")
    makers: dict[str, Callable[[Any], Any]] = {
        JSON: orjson.dumps,
        "label": lambda prediction: (_first(prediction).get("label") or "").encode(),
        "score": lambda prediction: _first(prediction).get("score", 0.0),
    }
    shape = (len(predictions),)
    return [Tensor(name, has[name], shape, [makers[name](each) for each in predictions]) for name in wanted or has]


def task_parameters(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return those parameters of a request that are the task's."""
    return {name: value for name, value in parameters.items() if name not in OWN_PARAMETERS}


def timeout_of(parameters: Mapping[str, Any]) -> float | None:
    """Return the seconds that a request's own `timeout` parameter, in microseconds, allows."""
    micros = parameters.get("timeout")
    if micros is None or micros == 0:
        return None
    digits = str(micros) if type(micros) is not float else f"{micros:.0f}" if micros.is_integer() else ""
    if type(micros) not in (int, float, str) or not digits.isascii() or not digits.isdigit():
        raise InputError('the parameter "timeout" is not a whole number', "send microseconds")
    return int(digits[:TIMEOUT_DIGITS]) / 1e6


def check_model(manifest: Manifest, name: str, version: str | None) -> None:
    """Refuse a model that is not this one."""
    if name != manifest.name or (version and version != manifest.version):
        asked = f"{name[:80]}{f', version {version[:40]}' if version else ''}"
        raise Refused(404, "no_model", f"there is no model {asked}", f"{manifest.name} {manifest.version} is here")


def _first(prediction: Any) -> dict[str, Any]:
    """Return the best of a list."""
    if isinstance(prediction, list):
        return prediction[0] if prediction else {}
    return dict(prediction)


def _text(name: str, element: bytes, index: int) -> str:
    try:
        return element.decode()
    except UnicodeDecodeError as error:
        raise InputError(f"element {index} of tensor {name!r} is not UTF-8", "encode texts as UTF-8") from error


def _json(element: bytes, index: int) -> Any:
    try:
        return orjson.loads(element)
    except orjson.JSONDecodeError as error:
        raise InputError(f"element {index} of tensor {JSON!r} is not JSON ({error})", "send JSON as UTF-8") from error
