"""Calls over gRPC as values, in the messages of the Open Inference Protocol."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from types import SimpleNamespace
from typing import Any, Generic, TypeVar

import orjson
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from tuneport.client import open_inference_pb2
from tuneport.client.results import ModelMetadata, ModelName, Predictions, TensorMetadata
from tuneport.errors import InputError

SERVICE = "inference.GRPCInferenceService"
JSON = "json"
"""Name of the tensors whose elements are inputs and predictions as JSON."""
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class GrpcCall(Generic[Result]):
    """A call of a method, and how its response is read."""

    method: str
    message: Any
    read: Callable[[Any, str], Result]
    """Takes the response and the request's id."""

    @property
    def path(self) -> str:
        """Return the method's path."""
        return f"/{SERVICE}/{self.method}"

    @property
    def response_class(self) -> Any:
        """Return the class of the response."""
        return getattr(messages(), f"{self.method}Response")


@cache
def messages() -> SimpleNamespace:
    """Return the protocol's message classes.

    They are in a pool of their own: protobuf refuses a second definition in its default pool, and tritonclient brings
    one.
    """
    file = descriptor_pb2.FileDescriptorProto.FromString(open_inference_pb2.DESCRIPTOR)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    names = [f"{file.package}.{message.name}" for message in file.message_type]
    classes = [message_factory.GetMessageClass(pool.FindMessageTypeByName(name)) for name in names]
    return SimpleNamespace(**{each.DESCRIPTOR.name: each for each in classes})


def predict(model: str, inputs: Sequence[Any], parameters: Mapping[str, Any]) -> GrpcCall[Predictions]:
    """`ModelInfer`, its inputs and predictions as JSON."""
    request = messages().ModelInferRequest(model_name=model)
    for name, value in parameters.items():
        _set_parameter(request.parameters[name], name, value)
    tensor = request.inputs.add(name=JSON, datatype="BYTES", shape=[len(inputs)])
    try:
        tensor.contents.bytes_contents.extend(orjson.dumps(value) for value in inputs)
    except TypeError as error:
        raise InputError(f"the inputs are not JSON ({error})", "send strings, numbers, lists and objects") from error
    request.outputs.add(name=JSON)
    return GrpcCall("ModelInfer", request, _predictions)


def is_live() -> GrpcCall[bool]:
    """`ServerLive`."""
    return GrpcCall("ServerLive", messages().ServerLiveRequest(), lambda response, _: bool(response.live))


def is_ready() -> GrpcCall[bool]:
    """`ServerReady`."""
    return GrpcCall("ServerReady", messages().ServerReadyRequest(), lambda response, _: bool(response.ready))


def metadata(model: str) -> GrpcCall[ModelMetadata]:
    """`ModelMetadata`."""
    return GrpcCall(
        "ModelMetadata", messages().ModelMetadataRequest(name=model), lambda response, _: _metadata(response)
    )


def _set_parameter(message: Any, name: str, value: Any) -> None:
    kinds = {bool: "bool_param", int: "int64_param", float: "double_param", str: "string_param"}
    if type(value) not in kinds:
        problem = f"the parameter {name!r} is of type {type(value).__name__}"
        raise InputError(problem, "gRPC takes bool, int, float and str; send others over HTTP")
    setattr(message, kinds[type(value)], value)


def _predictions(response: Any, request_id: str) -> Predictions:
    (output,) = response.outputs
    values = [orjson.loads(element) for element in output.contents.bytes_contents]
    return Predictions(values, ModelName(response.model_name, response.model_version, None), request_id)


def _metadata(response: Any) -> ModelMetadata:
    inputs, outputs = (
        tuple(TensorMetadata(each.name, each.datatype, tuple(each.shape)) for each in side)
        for side in (response.inputs, response.outputs)
    )
    return ModelMetadata(response.name, tuple(response.versions), inputs, outputs)
