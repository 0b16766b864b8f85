"""Tensors of the Open Inference Protocol over HTTP: in JSON, or as binary data behind it."""

from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from starlette.responses import Response

from tuneport.errors import InputError, MalformedRequest
from tuneport.runtime.tasks.inputs import check_number

from .. import tensors
from ..json_text import parse_json
from ..open_inference import check_output_parameters
from ..tensors import Tensor

HEADER_LENGTH = "Inference-Header-Content-Length"
"""HTTP header with the length of the JSON, where binary data follows it."""


def split_body(body: bytes, header_length: str | None) -> tuple[dict[str, Any], memoryview]:
    """Split a body into its JSON object and the binary data behind it."""
    size = len(body)
    if header_length is not None:
        is_number = header_length.isascii() and header_length.isdigit() and len(header_length) <= len(str(size))
        if not is_number or int(header_length) > size:
            problem = f"{HEADER_LENGTH} is {header_length[:40]!r} for a body of {size} bytes"
            raise MalformedRequest(problem, "send the length of the JSON in bytes", code="wrong_length")
        size = int(header_length)
    return as_object(parse_json(body[:size]), "the body"), memoryview(body)[size:]


def read_tensors(inputs: Any, binary: memoryview, max_client_batch_size: int) -> list[Tensor]:
    """Read input tensors; those with a `binary_data_size` take their elements from the binary data, in order."""
    if not isinstance(inputs, list) or not inputs:
        raise InputError('"inputs" is not a list of tensors', "send at least one")
    check_number(len(inputs), "inputs")
    result = []
    for value in inputs:
        fields = as_object(value, "an input")
        name, datatype, shape = fields.get("name"), fields.get("datatype"), fields.get("shape")
        if not isinstance(name, str) or not isinstance(datatype, str) or not isinstance(shape, list):
            raise InputError("an input lacks name, datatype or shape", "send all three")
        count = tensors.check_count(name, datatype, shape, max_client_batch_size)
        size = as_object(fields.get("parameters"), "parameters").get("binary_data_size")
        if size is None:
            elements = _read_data(name, fields.get("data"), count)
        else:
            if type(size) is not int or not 0 <= size <= len(binary):
                problem = f"tensor {name[:40]!r} declares binary data that is not there"
                raise InputError(problem, "correct binary_data_size")
            elements = tensors.split_bytes(name, bytes(binary[:size]), count)
            binary = binary[size:]
        result.append(Tensor(name, datatype, tuple(shape), elements))
    if len(binary):
        raise InputError(f"the body has {len(binary)} bytes of binary data too many", "correct binary_data_size")
    return result


def requested_outputs(outputs: Any, default: bool) -> dict[str, bool]:
    """Return the names of the requested outputs, each with whether it is wanted as binary data."""
    if outputs is None:
        return {}
    if not isinstance(outputs, list):
        raise InputError('"outputs" is not a list', "name outputs, or leave it out")
    check_number(len(outputs), "outputs")
    is_binary = {}
    for value in outputs:
        fields = as_object(value, "an output")
        if not isinstance(fields.get("name"), str):
            raise InputError("an output lacks its name", "name it")
        parameters = as_object(fields.get("parameters"), "parameters")
        check_output_parameters(fields["name"], parameters)
        is_binary[fields["name"]] = parameters.get("binary_data", default) is True
    return is_binary


def tensor_response(content: dict[str, Any], outputs: Sequence[Tensor], is_binary: Mapping[str, bool]) -> Response:
    """Return `content` with the output tensors, those wanted in binary form behind the JSON."""
    described, binary = [], []
    for tensor in outputs:
        fields: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": tensor.shape}
        if is_binary[tensor.name]:
            binary.append(tensors.join_elements(tensor))
            fields["parameters"] = {"binary_data_size": len(binary[-1])}
        else:
            is_text = tensor.datatype == tensors.BYTES
            fields["data"] = [element.decode() for element in tensor.elements] if is_text else list(tensor.elements)
        described.append(fields)
    header = orjson.dumps({**content, "outputs": described})
    if not binary:
        return Response(header, media_type="application/json")
    body = b"".join([header, *binary])
    return Response(body, headers={HEADER_LENGTH: str(len(header))}, media_type="application/octet-stream")


def as_object(value: Any, name: str) -> dict[str, Any]:
    """Return a JSON object, empty for null; an InputError for any other value."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InputError(f"{name} is not an object", "send a JSON object")
    return value


def _read_data(name: str, data: Any, count: int) -> list[bytes]:
    """Read a tensor's elements from JSON: strings, each alone or in a list of its own."""
    if not isinstance(data, list):
        raise InputError(f"tensor {name[:40]!r} has no data", 'send "data", or "binary_data_size"')
    flat = [value[0] if isinstance(value, list) and len(value) == 1 else value for value in data[: count + 1]]
    if len(flat) != count or not all(isinstance(value, str) for value in flat):
        raise InputError(f"tensor {name[:40]!r} is not {count} string(s)", "send as many as its shape says")
    return [value.encode() for value in flat]
