"""OpenAI's `/v1` for chat tasks, as far as the models of one process can answer it."""

from collections.abc import AsyncIterator
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tuneport.errors import MalformedRequest, NotFound
from tuneport.tasks import task_spec

from ..admission import AdmissionController
from ..text_stream import stream_text
from .openai_schema import ChatRequest, CompletionRequest, ResponseFormat
from .requests import admission_of, frame_of, models_of, read_checked_body, unless_disconnected
from .responses import event_stream, json_response

AnyRequest = TypeVar("AnyRequest", ChatRequest, CompletionRequest)


async def models(request: Request) -> Response:
    """List the models for chats, or describe one."""
    names = _chat_models(request)
    if "model" in request.path_params:
        name = request.path_params["model"]
        _check_model(names, name)
        return json_response(_describe(name))
    return json_response({"object": "list", "data": [_describe(name) for name in names]})


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
    """Read and check the body, and let the model that it names answer."""
    names = _chat_models(request)
    body = await read_checked_body(request, kind, _refuse)
    _check_model(names, body.model)
    frame, models = frame_of(request), models_of(request)
    if body.model != frame.admission.manifest.name:
        frame.use(models.find(body.model, None, frame.headers))
    return body


def _refuse(problem: str, remedy: str) -> MalformedRequest:
    return MalformedRequest(problem, remedy, code="invalid_request")


def _describe(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "tuneport"}


def _chat_models(request: Request) -> list[str]:
    """Return the names of the models for chats; NotFound where there is none."""
    models = models_of(request)
    names = [model.name for model in models if task_spec(model.serving.manifest.task).is_chat]
    if not names:
        problem = f"a model for {models.default.serving.manifest.task} has no chat and no completions"
        raise NotFound(problem, "POST to /predict", code="not_routed")
    return names


def _check_model(known: list[str], name: str) -> None:
    if name not in known:
        remedy = f"request {', '.join(map(repr, known))}"
        raise NotFound(f"there is no model {name[:80]!r}", remedy, code="model_not_found")
