"""Tensors of the Open Inference Protocol: to the inputs of `/predict`, and from its predictions."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from tuneport.errors import InputError, PayloadTooLarge
from tuneport.schema.artifact import Manifest
from tuneport.tasks import task_spec

from .json_text import check_values

BYTES, FP32 = "BYTES", "FP32"
JSON = "json"
"""Name of the tensor whose elements are inputs or predictions of `/predict` as JSON; every task has it."""
MAX_AXES = 3
"""Axes of a shape that are looked at: one more than an input may have."""
LENGTH_BYTES = 4
"""Size of the length before each element of a raw BYTES tensor, little-endian."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor of a request or a response, its elements row by row."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    elements: Sequence[Any]
    """bytes for BYTES, float for FP32."""


def fields_of(manifest: Manifest) -> tuple[str, ...]:
    """Return the names of a model's input tensors; `json` is accepted instead of them."""
    spec = task_spec(manifest.task)
    takes_pairs = spec.accepts_pairs and manifest.processing.accepts_pairs
    return (*spec.input_fields, *(("text_pair",) if takes_pairs else ())) or (JSON,)


def output_datatypes(manifest: Manifest) -> dict[str, str]:
    """Return the names and datatypes of a model's output tensors."""
    problem = manifest.processing.problem_type
    if problem == "single_label_classification":
        return {"label": BYTES, "score": FP32, JSON: BYTES}
    if problem == "regression" and len(manifest.labels) <= 1:
        return {"score": FP32, JSON: BYTES}
    return {JSON: BYTES}


def check_count(name: str, datatype: str, shape: Sequence[Any], max_client_batch_size: int) -> int:
    """Return the number of elements that an input tensor declares, before they are read.

    Raises InputError unless it is BYTES of shape [N] or [N, 1], PayloadTooLarge for too many elements.
    """
    if datatype != BYTES:
        raise InputError(f"tensor {name[:40]!r} has datatype {datatype[:20]!r}", "send BYTES")
    shape = [int(size) if type(size) is float and size.is_integer() else size for size in shape[:MAX_AXES]]
    are_sizes = all(type(size) is int and size >= 0 for size in shape)
    if not are_sizes or len(shape) not in (1, 2) or (len(shape) == 2 and shape[1] != 1):
        raise InputError(f"tensor {name[:40]!r} has shape {list(shape)[:4]}", "send [N] or [N, 1]")
    if shape[0] > max_client_batch_size:
        problem = f"tensor {name[:40]!r} declares {shape[0]} inputs, and the limit is {max_client_batch_size}"
        remedy = "send several requests, or raise TUNEPORT_MAX_CLIENT_BATCH_SIZE"
        raise PayloadTooLarge(problem, remedy, code="too_many_inputs")
    return int(shape[0])


def split_bytes(name: str, raw: bytes, count: int) -> list[bytes]:
    """Split raw BYTES into `count` elements, each preceded by its length; an InputError if they don't add up."""
    elements, position = [], 0
    for _ in range(count):
        start = position + LENGTH_BYTES
        position = start + int.from_bytes(raw[position:start], "little")
        if position > len(raw):
            raise InputError(f"tensor {name[:40]!r} ends inside of an element", "write each element's length before it")
        elements.append(raw[start:position])
    if position != len(raw):
        raise InputError(f"tensor {name[:40]!r} has {len(raw) - position} bytes too many", "correct its shape")
    return elements


def join_elements(tensor: Tensor) -> bytes:
    """Return a tensor's elements in raw form."""
    if tensor.datatype == FP32:
        return np.asarray(tensor.elements, "<f4").tobytes()
    return b"".join(len(element).to_bytes(LENGTH_BYTES, "little") + element for element in tensor.elements)


def inputs_from_tensors(manifest: Manifest, tensors: Sequence[Tensor]) -> list[Any]:
    """Convert input tensors to the inputs of `/predict`; an InputError for names, lengths or texts that don't fit."""
    fields = fields_of(manifest)
    by_name = {tensor.name: tensor for tensor in tensors}
    if len(by_name) != len(tensors) or set(by_name) not in ({*fields}, {JSON}):
        expected = " and ".join(repr(field) for field in fields)
        received = ", ".join(repr(tensor.name[:40]) for tensor in tensors[:8]) or "none"
        remedy = f"send {expected}" + ("" if JSON in fields else f", or {JSON!r}")
        raise InputError(f"the input tensors are {received}", remedy)
    if JSON in by_name:
        check_values(b",".join(by_name[JSON].elements))
        return [_parse_json(element, index) for index, element in enumerate(by_name[JSON].elements)]
    columns = [[_decode(field, element, i) for i, element in enumerate(by_name[field].elements)] for field in fields]
    if len({len(column) for column in columns}) != 1:
        raise InputError("the input tensors differ in their number of elements", "send as many of each")
    if len(fields) == 1:
        return list(columns[0])
    return [dict(zip(fields, row, strict=True)) for row in zip(*columns, strict=True)]


def check_outputs(manifest: Manifest, names: Sequence[str]) -> None:
    """Raise InputError for requested output tensors that don't exist or are requested twice."""
    datatypes = output_datatypes(manifest)
    if unknown := [name for name in names if name not in datatypes]:
        raise InputError(f"there is no output {unknown[0][:40]!r}", f"known: {', '.join(datatypes)}")
    if len(set(names)) != len(names):
        raise InputError("an output is requested twice", "name each once")


def tensors_from_predictions(manifest: Manifest, predictions: Sequence[Any], names: Sequence[str]) -> list[Tensor]:
    """Convert predictions to the output tensors `names`, or to all of them if none is named."""
    datatypes = output_datatypes(manifest)
    converters: dict[str, Callable[[Any], Any]] = {
        JSON: orjson.dumps,
        "label": lambda prediction: (_best(prediction).get("label") or "").encode(),
        "score": lambda prediction: _best(prediction).get("score", 0.0),
    }
    shape = (len(predictions),)
    return [
        Tensor(name, datatypes[name], shape, [converters[name](prediction) for prediction in predictions])
        for name in names or datatypes
    ]


def _best(prediction: Any) -> dict[str, Any]:
    """Return the first prediction of a list, which is the best."""
    if isinstance(prediction, list):
        return prediction[0] if prediction else {}
    return dict(prediction)


def _decode(name: str, element: bytes, index: int) -> str:
    try:
        return element.decode()
    except UnicodeDecodeError as error:
        raise InputError(f"element {index} of tensor {name!r} is not UTF-8", "encode texts as UTF-8") from error


def _parse_json(element: bytes, index: int) -> Any:
    try:
        return orjson.loads(element)
    except orjson.JSONDecodeError as error:
        raise InputError(f"element {index} of tensor {JSON!r} is not JSON ({error})", "send JSON as UTF-8") from error
