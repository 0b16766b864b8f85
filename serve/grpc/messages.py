"""Read requests and write responses of the Open Inference Protocol's messages."""

from collections.abc import Mapping, Sequence
from typing import Any

from google.protobuf.message import DecodeError

from tuneport.errors import InputError
from tuneport.runtime.tasks.inputs import check_number
from tuneport.schema.artifact import Manifest

from .. import tensors
from ..tensors import Tensor
from . import open_inference_pb2 as pb


def parse_message(kind: Any, raw: bytes) -> Any:
    """Parse a message; grpc's own deserializer would answer UNKNOWN for a broken one and log a traceback."""
    try:
        return kind.FromString(raw)
    except DecodeError as error:
        raise InputError("the message cannot be read", f"send {kind.DESCRIPTOR.full_name}") from error


def read_tensors(request: Any, max_client_batch_size: int) -> list[Tensor]:
    """Read input tensors, raw or typed; the size that each declares is checked before its elements are read."""
    check_number(len(request.inputs), "inputs")
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise InputError(f"{len(raw)} raw contents for {len(request.inputs)} inputs", "send one for each")
    result = []
    for index, message in enumerate(request.inputs):
        name = message.name
        count = tensors.check_count(name, message.datatype, message.shape, max_client_batch_size)
        if raw and message.HasField("contents"):
            raise InputError(f"tensor {name[:40]!r} has raw and typed contents", "send one of them")
        if not raw and len(message.contents.bytes_contents) != count:
            problem = f"tensor {name[:40]!r} has {len(message.contents.bytes_contents)} elements for {count}"
            raise InputError(problem, "correct its shape")
        elements = tensors.split_bytes(name, raw[index], count) if raw else list(message.contents.bytes_contents)
        result.append(Tensor(name, message.datatype, tuple(message.shape), elements))
    return result


def read_parameters(messages: Mapping[str, Any]) -> dict[str, Any]:
    """Return the value of each parameter."""
    check_number(len(messages), "parameters")
    parameters = {}
    for name, message in messages.items():
        field = message.WhichOneof("parameter_choice")
        if field is None:
            raise InputError(f"the parameter {name[:40]!r} has no value", "set it, or leave it out")
        parameters[name] = getattr(message, field)
    return parameters


def infer_response(request: Any, manifest: Manifest, outputs: Sequence[Tensor]) -> Any:
    """Write output tensors, raw if the request's inputs were."""
    response = pb.ModelInferResponse(model_name=manifest.name, model_version=manifest.version, id=request.id)
    for tensor in outputs:
        output = response.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        if request.raw_input_contents:
            response.raw_output_contents.append(tensors.join_elements(tensor))
        elif tensor.datatype == tensors.FP32:
            output.contents.fp32_contents.extend(tensor.elements)
        else:
            output.contents.bytes_contents.extend(tensor.elements)
    return response
