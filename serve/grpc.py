"""The gRPC door: the Open Inference Protocol's service over the batcher that HTTP uses, health and reflection."""

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from export.files import TuneportError
from serve import logs
from serve.desk import Desk
from serve.errors import Refusal, Refused, refusal_of
from serve.protocol import open_inference_pb2 as messages
from serve.protocol import tensors
from serve.protocol.http import EXTENSIONS, PLATFORM
from serve.protocol.tensors import Tensor
from serve.tasks.inputs import InputError, check_number

SERVICE = "inference.GRPCInferenceService"
CODES = {
    401: grpc.StatusCode.UNAUTHENTICATED,
    404: grpc.StatusCode.NOT_FOUND,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    500: grpc.StatusCode.INTERNAL,
    503: grpc.StatusCode.DEADLINE_EXCEEDED,
}
"""For HTTP's statuses; every other says INVALID_ARGUMENT."""
FIELDS = {"int64_param", "bool_param", "string_param", "double_param", "uint64_param"}
MARGIN_BYTES = 64 * 1024
"""What a message may have beside the body that `max_body_bytes` bounds."""
Call = Callable[[Any, "grpc.aio.ServicerContext[Any, Any]"], Awaitable[Any]]


class GrpcDoor:
    """A `grpc.aio` server in the worker's event loop."""

    def __init__(self, desk: Desk) -> None:
        """Make the server; `start` opens its port."""
        self._desk = desk
        settings = desk.settings
        limit = settings.max_body_bytes + MARGIN_BYTES
        self._server = grpc.aio.server(
            options=[
                ("grpc.so_reuseport", int(settings.workers > 1)),
                ("grpc.max_receive_message_length", limit),
                ("grpc.max_send_message_length", -1),
                ("grpc.max_connection_idle_ms", 1000 * max(settings.idle_timeout_s, 60)),
            ],
        )
        self._health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection((SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), self._server)
        self._server.add_generic_rpc_handlers((self._handlers(),))

    async def start(self) -> int:
        """Listen; returns the port. Raises TuneportError if it is taken."""
        settings = self._desk.settings
        host = f"[{settings.grpc_host}]" if ":" in settings.grpc_host else settings.grpc_host
        address = f"{host}:{settings.grpc_port}"
        tls = settings.tls()
        try:
            if tls:
                credentials = grpc.ssl_server_credentials([(tls[1], tls[0])])
                port = self._server.add_secure_port(address, credentials)
            else:
                port = self._server.add_insecure_port(address)
        except RuntimeError as error:
            problem = f"gRPC cannot listen on {address}"
            raise TuneportError(problem, "free it, or set TUNEPORT_GRPC_PORT (0 for none)") from error
        await self._server.start()
        await self.set_ready(True)
        return port

    async def set_ready(self, ready: bool) -> None:
        """Tell the health service."""
        status = health_pb2.HealthCheckResponse.SERVING if ready else health_pb2.HealthCheckResponse.NOT_SERVING
        for name in ("", SERVICE):
            await self._health.set(name, status)

    async def stop(self, grace_s: float) -> None:
        """Refuse new calls and let those under way finish within the grace."""
        await self.set_ready(False)
        await self._server.stop(grace_s)

    async def server_live(self, _: Any, __: Any) -> Any:
        """Say that the process answers."""
        return messages.ServerLiveResponse(live=True)

    async def server_ready(self, _: Any, __: Any) -> Any:
        """Say whether it would answer inference calls."""
        return messages.ServerReadyResponse(ready=self._desk.ready)

    async def model_ready(self, request: Any, _: Any) -> Any:
        """Say the same of one model."""
        tensors.check_model(self._desk.predictor.manifest, request.name, request.version)
        return messages.ModelReadyResponse(ready=self._desk.ready)

    async def server_metadata(self, _: Any, __: Any) -> Any:
        """Name the server."""
        version = self._desk.predictor.manifest.version
        return messages.ServerMetadataResponse(name=PLATFORM, version=version, extensions=EXTENSIONS)

    async def model_metadata(self, request: Any, _: Any) -> Any:
        """Describe the model's tensors."""
        manifest = self._desk.predictor.manifest
        tensors.check_model(manifest, request.name, request.version)
        describe = messages.ModelMetadataResponse.TensorMetadata
        fields, outputs = tensors.fields_of(manifest), tensors.outputs_of(manifest)
        return messages.ModelMetadataResponse(
            name=manifest.name,
            versions=[manifest.version],
            platform=PLATFORM,
            inputs=[describe(name=name, datatype=tensors.BYTES, shape=[-1]) for name in fields],
            outputs=[describe(name=name, datatype=kind, shape=[-1]) for name, kind in outputs.items()],
        )

    async def model_infer(self, request: Any, context: Any) -> Any:
        """Answer tensors with tensors."""
        manifest = self._desk.predictor.manifest
        tensors.check_model(manifest, request.model_name, request.model_version)
        inputs = tensors.inputs_of(manifest, _read_tensors(request, self._desk.settings.max_inputs))
        parameters = _read_parameters(request.parameters)
        check_number(len(request.outputs), "outputs")
        wanted = [output.name for output in request.outputs]
        tensors.tensors_of(manifest, [], wanted)  # before the work is done
        limits = [each for each in (context.time_remaining(), tensors.timeout_of(parameters)) if each is not None]
        predictions = await self._desk.answer(inputs, tensors.task_parameters(parameters), min(limits, default=None))
        answer = messages.ModelInferResponse(model_name=manifest.name, model_version=manifest.version, id=request.id)
        for tensor in tensors.tensors_of(manifest, predictions, wanted):
            output = answer.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
            if request.raw_input_contents:
                answer.raw_output_contents.append(tensors.join_elements(tensor))
            elif tensor.datatype == tensors.FP32:
                output.contents.fp32_contents.extend(tensor.elements)
            else:
                output.contents.bytes_contents.extend(tensor.elements)
        return answer

    def _handlers(self) -> grpc.GenericRpcHandler:
        calls: dict[str, tuple[Call, Any, str]] = {
            "ServerLive": (self.server_live, messages.ServerLiveRequest, ""),
            "ServerReady": (self.server_ready, messages.ServerReadyRequest, ""),
            "ModelReady": (self.model_ready, messages.ModelReadyRequest, "v2"),
            "ServerMetadata": (self.server_metadata, messages.ServerMetadataRequest, "v2"),
            "ModelMetadata": (self.model_metadata, messages.ModelMetadataRequest, "v2"),
            "ModelInfer": (self.model_infer, messages.ModelInferRequest, "infer"),
        }
        handlers = {
            name: grpc.unary_unary_rpc_method_handler(
                self._guarded(call, kind, operation),
                response_serializer=lambda answer: answer.SerializeToString(),
            )
            for name, (call, kind, operation) in calls.items()
        }
        return grpc.method_handlers_generic_handler(SERVICE, handlers)

    def _guarded(self, call: Call, kind: Any, operation: str) -> Call:
        """Frame a call: key, place, request id, errors as codes, and what is counted and logged of it.

        Without an operation it is about health: no key, no place, no notes.
        """

        async def guarded(raw: bytes, context: "grpc.aio.ServicerContext[Any, Any]") -> Any:
            began, code = time.perf_counter(), "CANCELLED"
            metadata = {str(key): value for key, value in context.invocation_metadata() or ()}
            request_id = logs.request_id(_text(metadata.get("x-request-id")))
            context.set_trailing_metadata((("x-request-id", request_id),))
            try:
                if not operation:
                    return await call(_parse(kind, raw), context)
                self._desk.check_key(_text(metadata.get("authorization")), _text(metadata.get("x-api-key")))
                with self._desk.seat(operation):
                    answer = await call(_parse(kind, raw), context)
                code = "OK"
                return answer
            except asyncio.CancelledError:
                raise
            except Exception as error:
                refusal = refusal_of(error)
                status = CODES.get(refusal.status, grpc.StatusCode.INVALID_ARGUMENT)
                code = status.name
                if refusal.status >= 500 and not isinstance(error, Refused):
                    logs.log("failed", logging.ERROR, exc_info=error, request_id=request_id)
                context.set_trailing_metadata(_trailer(refusal, request_id))
                await context.abort(status, f"{refusal.message}; {refusal.remedy}")
            finally:
                if operation:
                    traceparent = _text(metadata.get("traceparent"))
                    self._desk.note("grpc", operation, code, began, request_id, traceparent=traceparent)

        return guarded


def _parse(kind: Any, raw: bytes) -> Any:
    """Read a message here and not in grpc's own code, which would call a broken one UNKNOWN and log a traceback."""
    try:
        return kind.FromString(raw)
    except DecodeError as error:
        raise InputError("the message cannot be read", f"send {kind.DESCRIPTOR.full_name}") from error


def _trailer(refusal: Refusal, request_id: str) -> tuple[tuple[str, str], ...]:
    trailer = [("x-request-id", request_id), ("error-code", refusal.code)]
    if refusal.status == 429:
        trailer.append(("retry-after", str(max(1, math.ceil(refusal.retry_after_s or 1)))))
    return tuple(trailer)


def _read_tensors(request: Any, max_inputs: int) -> list[Tensor]:
    """Read input tensors, raw or typed; what they claim is checked before it is read."""
    check_number(len(request.inputs), "inputs")
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise InputError(f"{len(raw)} raw contents for {len(request.inputs)} inputs", "send one for each")
    found = []
    for index, given in enumerate(request.inputs):
        count = tensors.check_count(given.name, given.datatype, given.shape, max_inputs)
        contents = list(given.contents.bytes_contents)
        if raw and given.HasField("contents"):
            raise InputError(f"tensor {given.name[:40]!r} has raw and typed contents", "send one of them")
        elements = tensors.split_bytes(given.name, raw[index], count) if raw else contents
        if len(elements) != count:
            raise InputError(f"tensor {given.name[:40]!r} has {len(elements)} elements for {count}", "mend its shape")
        found.append(Tensor(given.name, given.datatype, tuple(given.shape), elements))
    return found


def _read_parameters(given: Mapping[str, Any]) -> dict[str, Any]:
    check_number(len(given), "parameters")
    found = {}
    for name, parameter in given.items():
        chosen = parameter.WhichOneof("parameter_choice")
        if chosen is None:
            raise InputError(f"the parameter {name[:40]!r} has no value", "set it, or leave it out")
        found[name] = getattr(parameter, chosen)
    return found


def _text(value: Any) -> str | None:
    return value.decode("latin-1") if isinstance(value, bytes) else value
