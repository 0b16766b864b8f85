"""The calls of `inference.GRPCInferenceService`, each in a request frame."""

from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import grpc

from tuneport.runtime.tasks.inputs import check_number
from tuneport.schema.artifact import Manifest
from tuneport.version import VERSION

from .. import tensors
from ..errors import ErrorResponse
from ..evidence import evidence_metadata
from ..framing import RequestFrame
from ..models.registry import ModelRegistry
from ..open_inference import EXTENSIONS, PLATFORM, check_output_parameters, infer, versions_of
from . import open_inference_pb2 as pb
from .messages import infer_response, parse_message, read_parameters, read_tensors
from .wire import check_fields

SERVICE = "inference.GRPCInferenceService"
EXTRA_FIELDS = 1024
"""Fields that a message may have beside the elements of its tensors."""
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Call = Callable[[Any, Context, RequestFrame], Awaitable[Any]]


class Servicer:
    """Answers calls over the batcher that HTTP uses."""

    def __init__(self, models: ModelRegistry) -> None:
        """Keep the worker's models."""
        self._models = models

    def handlers(self) -> grpc.GenericRpcHandler:
        """Return the service's handlers; calls without an operation are health checks."""
        calls: dict[str, tuple[Call, Any, str | None]] = {
            "ServerLive": (self.server_live, pb.ServerLiveRequest, None),
            "ServerReady": (self.server_ready, pb.ServerReadyRequest, None),
            "ModelReady": (self.model_ready, pb.ModelReadyRequest, "v2"),
            "ServerMetadata": (self.server_metadata, pb.ServerMetadataRequest, "v2"),
            "ModelMetadata": (self.model_metadata, pb.ModelMetadataRequest, "v2"),
            "ModelInfer": (self.model_infer, pb.ModelInferRequest, "infer"),
        }
        handlers = {
            name: grpc.unary_unary_rpc_method_handler(
                self._framed(call, kind, operation),
                response_serializer=lambda response: response.SerializeToString(),
            )
            for name, (call, kind, operation) in calls.items()
        }
        return grpc.method_handlers_generic_handler(SERVICE, handlers)

    async def server_live(self, request: Any, context: Context, frame: RequestFrame) -> Any:
        """Answer that the process is alive."""
        return pb.ServerLiveResponse(live=True)

    async def server_ready(self, request: Any, context: Context, frame: RequestFrame) -> Any:
        """Answer whether the server accepts inference calls."""
        return pb.ServerReadyResponse(ready=self._models.ready)

    async def model_ready(self, request: Any, context: Context, frame: RequestFrame) -> Any:
        """Answer whether the model accepts inference calls."""
        self._use_model(frame, request.name, request.version)
        return pb.ModelReadyResponse(ready=frame.admission.ready)

    async def server_metadata(self, request: Any, context: Context, frame: RequestFrame) -> Any:
        """Return the server's name, version and protocol extensions."""
        return pb.ServerMetadataResponse(name=PLATFORM, version=VERSION, extensions=EXTENSIONS)

    async def model_metadata(self, request: Any, context: Context, frame: RequestFrame) -> Any:
        """Return the model's input and output tensors."""
        self._use_model(frame, request.name, request.version)
        manifest = frame.admission.manifest
        proof = evidence_metadata(frame.admission.inference)
        context.set_trailing_metadata((("x-request-id", frame.request_id), *proof))
        metadata = pb.ModelMetadataResponse.TensorMetadata
        fields, outputs = tensors.fields_of(manifest), tensors.output_datatypes(manifest)
        return pb.ModelMetadataResponse(
            name=manifest.name,
            versions=versions_of(self._models, manifest.name),
            platform=PLATFORM,
            inputs=[metadata(name=name, datatype=tensors.BYTES, shape=[-1]) for name in fields],
            outputs=[metadata(name=name, datatype=datatype, shape=[-1]) for name, datatype in outputs.items()],
        )

    async def model_infer(self, request: Any, context: Context, frame: RequestFrame) -> Any:
        """Answer input tensors with output tensors."""
        self._use_model(frame, request.model_name, request.model_version)
        admission, manifest = frame.admission, frame.admission.manifest
        frame.inputs = await admission.inference.lanes.run_if_large(
            request.ByteSize(), _read_inputs, manifest, request, admission.settings.max_client_batch_size
        )
        parameters = read_parameters(request.parameters)
        check_number(len(request.outputs), "outputs")
        for output in request.outputs:
            check_output_parameters(output.name, output.parameters)
        output_names = [output.name for output in request.outputs]
        tensors.check_outputs(manifest, output_names)
        outputs = await infer(admission, frame.inputs, parameters, output_names, context.time_remaining())
        return infer_response(request, manifest, outputs)

    def _use_model(self, frame: RequestFrame, name: str, version: str) -> None:
        """Let the version that a message names answer; raises NotFound."""
        default = self._models.default
        if name != default.name or version or default.candidate is not None:
            frame.use(self._models.find(name, version, frame.headers))

    def _framed(self, call: Call, kind: Any, operation: str | None) -> Callable[[bytes, Context], Awaitable[Any]]:
        """Put a request frame around a call, and abort it with the code of an error that it raises."""

        async def framed(raw: bytes, context: Context) -> Any:
            metadata = {key: _as_text(value) for key, value in context.invocation_metadata() or ()}
            serving, is_named = self._models.default.serving, not self._models.has_several
            frame = RequestFrame(serving, "grpc", operation, metadata, is_named=is_named)
            context.set_trailing_metadata((("x-request-id", frame.request_id),))

            async def answer() -> Any:
                check_fields(raw, EXTRA_FIELDS + 4 * serving.settings.max_client_batch_size)
                response = await call(parse_message(kind, raw), context, frame)
                frame.status = "OK"
                return response

            async def respond(error: ErrorResponse, _: Exception) -> Any:
                frame.status = error.grpc_code.name
                context.set_trailing_metadata(_trailing_metadata(error, frame.request_id))
                await context.abort(error.grpc_code, error.text)

            return await frame.handle(answer, respond)

        return framed


def _read_inputs(manifest: Manifest, request: Any, limit: int) -> list[Any]:
    """Return the inputs in a request's tensors, at most `limit`."""
    return tensors.inputs_from_tensors(manifest, read_tensors(request, limit))


def _trailing_metadata(error: ErrorResponse, request_id: str) -> tuple[tuple[str, str], ...]:
    metadata = [("x-request-id", request_id), ("error-code", error.code)]
    if error.retry_after_s is not None:
        metadata.append(("retry-after", str(error.retry_after_s)))
    return tuple(metadata)


def _as_text(value: str | bytes) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else value
