"""The calls of `inference.GRPCInferenceService`, each in a request frame."""

from collections.abc import Awaitable, Callable
from typing import Any

import grpc

from tuneport.errors import ERROR_CODE_HEADER, ServiceStopping
from tuneport.version import VERSION

from .. import tensors
from ..errors import ErrorResponse
from ..evidence import evidence_metadata
from ..framing import RequestFrame
from ..models.host import ModelHost
from ..models.registry import ModelRegistry
from ..models.requests import host_for, read_options, read_version
from ..open_inference import EXTENSIONS, PLATFORM, infer, versions_of
from . import open_inference_pb2 as pb
from .connections import ActiveCalls
from .messages import infer_response, read_parameters
from .model_management import config_response, index_response, statistics_response
from .requests import check_request, parse_request, use_model
from .stream import Context, StreamInfer

SERVICE = "inference.GRPCInferenceService"
Call = Callable[[Any, Context, RequestFrame], Awaitable[Any]]


class Servicer:
    """Answers calls over the batcher that HTTP uses."""

    def __init__(self, models: ModelRegistry, host: ModelHost | None = None) -> None:
        """Keep the worker's models, and what loads others."""
        self._models = models
        self._host = host
        self.active = ActiveCalls()
        """The calls that were begun and have not ended, streams included."""
        self._is_stopping = False
        self._streams = StreamInfer(models, lambda context: self._frame(context, "infer"))

    def refuse(self) -> None:
        """Refuse each further call, and let each stream end after the request that it is at."""
        self._is_stopping = True
        self._streams.stopping.set()

    def handlers(self) -> grpc.GenericRpcHandler:
        """Return the service's handlers; calls without an operation are health checks."""
        calls: dict[str, tuple[Call, Any, str | None]] = {
            "ServerLive": (self.server_live, pb.ServerLiveRequest, None),
            "ServerReady": (self.server_ready, pb.ServerReadyRequest, None),
            "ModelReady": (self.model_ready, pb.ModelReadyRequest, "v2"),
            "ServerMetadata": (self.server_metadata, pb.ServerMetadataRequest, "v2"),
            "ModelMetadata": (self.model_metadata, pb.ModelMetadataRequest, "v2"),
            "ModelInfer": (self.model_infer, pb.ModelInferRequest, "infer"),
            "ModelConfig": (self.model_config, pb.ModelConfigRequest, "v2"),
            "ModelStatistics": (self.model_statistics, pb.ModelStatisticsRequest, "v2"),
            "RepositoryIndex": (self.repository_index, pb.RepositoryIndexRequest, "v2"),
            "RepositoryModelLoad": (self.repository_model_load, pb.RepositoryModelLoadRequest, "v2"),
            "RepositoryModelUnload": (self.repository_model_unload, pb.RepositoryModelUnloadRequest, "v2"),
        }
        handlers = {
            name: grpc.unary_unary_rpc_method_handler(
                self._framed(call, kind, operation),
                response_serializer=lambda response: response.SerializeToString(),
            )
            for name, (call, kind, operation) in calls.items()
        }
        stream = grpc.stream_stream_rpc_method_handler(self._stream)
        return grpc.method_handlers_generic_handler(SERVICE, {**handlers, "ModelStreamInfer": stream})

    async def _stream(self, requests: Any, context: Context) -> None:
        """Answer a stream."""
        self.active.begin(context, is_accepted=not self._is_stopping)
        await self._streams.handle(requests, context)

    async def server_live(self, request: Any, context: Context, frame: RequestFrame) -> Any:
        """Answer that the process is alive."""
        return pb.ServerLiveResponse(live=True)

    async def server_ready(self, request: Any, context: Context, frame: RequestFrame) -> Any:
        """Answer whether the server accepts inference calls."""
        return pb.ServerReadyResponse(ready=self._models.ready)

    async def model_ready(self, request: Any, context: Context, frame: RequestFrame) -> Any:
        """Answer whether the model accepts inference calls."""
        use_model(self._models, frame, request.name, request.version)
        return pb.ModelReadyResponse(ready=frame.admission.ready)

    async def server_metadata(self, request: Any, context: Context, frame: RequestFrame) -> Any:
        """Return the server's name, version and protocol extensions."""
        return pb.ServerMetadataResponse(name=PLATFORM, version=VERSION, extensions=EXTENSIONS)

    async def model_metadata(self, request: Any, context: Context, frame: RequestFrame) -> Any:
        """Return the model's input and output tensors."""
        use_model(self._models, frame, request.name, request.version)
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
        use_model(self._models, frame, request.model_name, request.model_version)
        _, inputs, parameters, output_names = await check_request(request, frame)
        outputs = await infer(frame.admission, inputs, parameters, output_names, context.time_remaining())
        return infer_response(request, frame.admission.manifest, outputs)

    async def model_config(self, request: Any, context: Context, frame: RequestFrame) -> Any:
        """Return the model's tensors and limits."""
        use_model(self._models, frame, request.name, request.version)
        return config_response(frame.admission)

    async def model_statistics(self, request: Any, context: Context, frame: RequestFrame) -> Any:
        """Return the counts and times since the start of a model, or of all without a name."""
        if not request.name:
            return await statistics_response(self._models.versions)
        use_model(self._models, frame, request.name, request.version)
        return await statistics_response([frame.admission])

    async def repository_index(self, request: Any, context: Context, frame: RequestFrame) -> Any:
        """List the models."""
        return await index_response(self._models, ready=request.ready)

    async def repository_model_load(self, request: Any, context: Context, frame: RequestFrame) -> Any:
        """Load a version, prove it, and give it its traffic."""
        host = host_for(self._host, frame.headers)
        await host.load(request.model_name, read_options(read_parameters(request.parameters)))
        return pb.RepositoryModelLoadResponse()

    async def repository_model_unload(self, request: Any, context: Context, frame: RequestFrame) -> Any:
        """Unload a version, or a model."""
        host = host_for(self._host, frame.headers)
        await host.unload(request.model_name, read_version(read_parameters(request.parameters)))
        return pb.RepositoryModelUnloadResponse()

    def _frame(self, context: Context, operation: str | None) -> RequestFrame:
        """Return the frame of a request that came with the metadata of a call."""
        metadata = {key: _as_text(value) for key, value in context.invocation_metadata() or ()}
        is_named = not self._models.has_several
        return RequestFrame(self._models.default.serving, "grpc", operation, metadata, is_named=is_named)

    def _framed(self, call: Call, kind: Any, operation: str | None) -> Callable[[bytes, Context], Awaitable[Any]]:
        """Put a request frame around a call, and abort it with the code of an error that it raises."""

        async def framed(raw: bytes, context: Context) -> Any:
            is_refused = self._is_stopping and operation is not None
            self.active.begin(context, is_accepted=not self._is_stopping)
            # A refused call needs no slot, which it might not get, and is no failure to be counted.
            frame = self._frame(context, None if is_refused else operation)
            context.set_trailing_metadata((("x-request-id", frame.request_id),))

            async def answer() -> Any:
                if is_refused:
                    raise ServiceStopping
                response = await call(parse_request(frame.admission.settings, kind, raw), context, frame)
                frame.status = "OK"
                return response

            async def respond(error: ErrorResponse, _: Exception) -> Any:
                frame.status = error.grpc_code.name
                context.set_trailing_metadata(_trailing_metadata(error, frame.request_id))
                await context.abort(error.grpc_code, error.text)

            return await frame.handle(answer, respond)

        return framed


def _trailing_metadata(error: ErrorResponse, request_id: str) -> tuple[tuple[str, str], ...]:
    metadata = [("x-request-id", request_id), (ERROR_CODE_HEADER, error.code)]
    if error.retry_after_s is not None:
        metadata.append(("retry-after", str(error.retry_after_s)))
    return tuple(metadata)


def _as_text(value: str | bytes) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else value
