"""OpenAI's `/v1` for chat tasks, as far as one model in one process can answer it."""

from collections.abc import AsyncIterator
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tuneport.errors import MalformedRequest, NotFound
from tuneport.tasks import task_spec

from ..admission import AdmissionController
from .openai_schema import ChatRequest, CompletionRequest, ResponseFormat
from .requests import admission_of, frame_of, read_checked_body, unless_disconnected
from .responses import event_stream, json_response
from .streaming import stream_text

AnyRequest = TypeVar("AnyRequest", ChatRequest, CompletionRequest)


async def models(request: Request) -> Response:
    """List the one model, or describe it."""
    admission = _chat_admission(request)
    model = {"id": admission.manifest.name, "object": "model", "created": 0, "owned_by": "tuneport"}
    if "model" in request.path_params:
        _check_model(admission, request.path_params["model"])
        return json_response(model)
    return json_response({"object": "list", "data": [model]})


async def chat_completions(request: Request) -> Response:
    """Answer a chat, whole or in chunks."""
    return await _respond(request, await _read_request(request, ChatRequest), is_chat=True)


async def completions(request: Request) -> Response:
    """Continue one prompt, whole or in chunks, or several prompts."""
    return await _respond(request, await _read_request(request, CompletionRequest), is_chat=False)


routes = [
    Route("/v1/models", models),
    Route("/v1/models/{model:path}", models),
    Route("/v1/chat/completions", chat_completions, methods=["POST"]),
    Route("/v1/completions", completions, methods=["POST"]),
]


async def _respond(request: Request, body: ChatRequest | CompletionRequest, *, is_chat: bool) -> Response:
    """Generate the answers; a prompt that would have to be truncated is refused."""
    admission, inputs = admission_of(request), body.inputs()
    manifest = admission.manifest
    frame_of(request).inputs = inputs
    form = ResponseFormat(manifest.name, manifest.version, is_chat=is_chat, is_stream=body.stream)
    if body.stream:
        if len(inputs) > 1:
            raise MalformedRequest("several prompts cannot be streamed", "send one", code="several_inputs")
        admission.check_size(inputs)
        return await event_stream(request, _chunks(admission, body, inputs[0], form), "[DONE]")
    work = admission.infer(inputs, body.parameters(), allow_truncation=False)
    return json_response(form.response(await unless_disconnected(request, work)))


async def _chunks(
    admission: AdmissionController, body: ChatRequest | CompletionRequest, value: Any, form: ResponseFormat
) -> AsyncIterator[Any]:
    """Yield the chunks of a stream."""
    is_first = True
    async for piece in stream_text(admission, value, body.parameters(), allow_truncation=False):
        if isinstance(piece, str):
            yield form.chunk(piece, is_first=is_first)
            is_first = False
            continue
        if is_first and isinstance(body, ChatRequest):  # an empty text still has a chunk with the role
            yield form.chunk("", is_first=True)
        yield form.last_chunk(piece.prediction["finish_reason"])
        if body.includes_usage:
            yield form.usage_chunk(piece)


async def _read_request(request: Request, kind: type[AnyRequest]) -> AnyRequest:
    """Read and check the body, and the model's name."""
    admission = _chat_admission(request)
    body = await read_checked_body(request, kind, _refuse)
    _check_model(admission, body.model)
    return body


def _refuse(problem: str, remedy: str) -> MalformedRequest:
    return MalformedRequest(problem, remedy, code="invalid_request")


def _chat_admission(request: Request) -> AdmissionController:
    """Return the admission control; NotFound where the task does not offer this protocol."""
    admission = admission_of(request)
    task = admission.manifest.task
    if not task_spec(task).is_chat:
        problem = f"a model for {task} has no chat and no completions"
        raise NotFound(problem, "POST to /predict", code="not_routed")
    return admission


def _check_model(admission: AdmissionController, name: str) -> None:
    known = admission.manifest.name
    if name != known:
        raise NotFound(f"there is no model {name[:80]!r}", f"request {known!r}", code="model_not_found")
