"""ModelStreamInfer: requests of one stream, each in a request frame, answered one after the other."""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Callable
from typing import Any, TypeAlias

import grpc

from tuneport.errors import ERROR_CODE_HEADER, InputError, ServiceStopping, SlowRequest, Unauthenticated
from tuneport.schema.artifact import Manifest
from tuneport.tasks import task_spec

from ..admission import AdmissionController
from ..errors import ErrorResponse, to_error_response
from ..framing import RequestFrame
from ..models.registry import ModelRegistry
from ..open_inference import infer, shortest_timeout_s, task_parameters
from ..tensors import JSON, tensors_from_predictions
from ..text_stream import stream_text
from . import open_inference_pb2 as pb
from .messages import infer_response
from .requests import InferRequest, read_request

FINAL = "triton_final_response"
"""The parameter of a response that says whether it is its request's last one."""
SLOW_CLIENT = to_error_response(SlowRequest("the client does not read its responses", "read them as they come"))
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


class _ClientIsSlow(BaseException):
    """A response was not read in time. No `Exception`: to respond to it would wait in the same way."""


class StreamInfer:
    """Answers the streams of a worker."""

    def __init__(self, models: ModelRegistry, frame: Callable[[Context], RequestFrame]) -> None:
        """Keep the worker's models; `frame` makes the frame of a request from the metadata of its stream."""
        self._models = models
        self._frame = frame
        self.stopping = asyncio.Event()
        """Set when the service stops: a stream ends after the request that it is at."""

    async def handle(self, _: Any, context: Context) -> None:
        """Answer one stream until its client closes it."""
        began, frame = time.perf_counter(), self._frame(context)
        try:
            self._models.worker.check_key(frame.headers.get("authorization"), frame.headers.get("x-api-key"))
        except Unauthenticated as error:
            response = to_error_response(error)
            frame.admission.record_request("grpc", "infer", response.grpc_code.name, began, frame.request_id)
            await _abort(context, response)
        try:
            while (raw := await self._next_request(context)) is not None:
                await self._answer(raw, context)
        except _ClientIsSlow:
            await _abort(context, SLOW_CLIENT)

    async def _next_request(self, context: Context) -> bytes | None:
        """Wait for a request; None when the client has closed the stream. Ends the stream when the service stops."""
        reading = asyncio.ensure_future(context.read())
        stopping = asyncio.ensure_future(self.stopping.wait())
        try:
            await asyncio.wait((reading, stopping), return_when=asyncio.FIRST_COMPLETED)
            if reading.done():
                raw = reading.result()
                return None if raw is grpc.aio.EOF else raw
        finally:
            reading.cancel()
            stopping.cancel()
        await _abort(context, to_error_response(ServiceStopping()))
        raise AssertionError  # an abort raises

    async def _answer(self, raw: bytes, context: Context) -> None:
        """Answer a request; an error is a response, and the stream goes on."""
        frame, request_id = self._frame(context), ""

        async def answer() -> None:
            nonlocal request_id
            request = await read_request(self._models, raw, frame)
            request_id = request.message.id
            async with contextlib.aclosing(self._responses(frame.admission, request, context)) as responses:
                async for response in responses:
                    await self._write(pb.ModelStreamInferResponse(infer_response=response), context, frame)
            frame.status = "OK"

        async def respond(error: ErrorResponse, _: Exception) -> None:
            frame.status = error.grpc_code.name
            failed = pb.ModelInferResponse(id=request_id)
            failed.parameters[FINAL].bool_param = True
            await self._write(
                pb.ModelStreamInferResponse(error_message=error.text, infer_response=failed), context, frame
            )

        await frame.handle(answer, respond)

    async def _write(self, response: Any, context: Context, frame: RequestFrame) -> None:
        """Send a response; a client that does not read must not keep the request's place for ever."""
        try:
            async with asyncio.timeout(self._models.worker.settings.body_timeout_s):
                await context.write(response.SerializeToString())
        except TimeoutError:
            frame.status = SLOW_CLIENT.grpc_code.name
            raise _ClientIsSlow from None
        except grpc.aio.InternalError as error:  # the client left while the write waited
            raise asyncio.CancelledError from error

    async def _responses(
        self, admission: AdmissionController, request: InferRequest, context: Context
    ) -> AsyncGenerator[Any, None]:
        """Yield the responses to a request, the last one marked."""
        manifest = admission.manifest
        if not task_spec(manifest.task).streams:
            outputs = await infer(
                admission, request.inputs, request.parameters, request.outputs, context.time_remaining()
            )
            yield _response(manifest, request, outputs, is_final=True)
            return
        if len(request.inputs) != 1:
            problem = f"{len(request.inputs)} inputs cannot be streamed"
            raise InputError(problem, "send one in each request of the stream", code="several_inputs")
        limit_s = shortest_timeout_s(request.parameters, context.time_remaining())
        text = stream_text(admission, request.inputs[0], task_parameters(request.parameters), timeout_s=limit_s)
        async with contextlib.aclosing(text) as pieces:
            async for piece in pieces:
                content = {"delta": piece} if isinstance(piece, str) else piece.prediction
                outputs = tensors_from_predictions(manifest, [content], [JSON])
                yield _response(manifest, request, outputs, is_final=not isinstance(piece, str))


def _response(manifest: Manifest, request: InferRequest, outputs: Any, *, is_final: bool) -> Any:
    response = infer_response(request.message, manifest, outputs)
    response.parameters[FINAL].bool_param = is_final
    return response


async def _abort(context: Context, error: ErrorResponse) -> None:
    context.set_trailing_metadata(((ERROR_CODE_HEADER, error.code),))
    await context.abort(error.grpc_code, error.text)
