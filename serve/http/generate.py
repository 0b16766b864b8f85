"""Triton's generate extension over HTTP: a text in, a text out, whole or in pieces; ModelStreamInfer's twin."""

from collections.abc import AsyncIterator
from typing import Any

from pydantic import BaseModel, ConfigDict
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tuneport.errors import InputError, NotFound
from tuneport.runtime.tasks.inputs import check_number
from tuneport.schema.artifact import Manifest
from tuneport.tasks import task_spec

from ..open_inference import task_parameters, timeout_s
from ..text_stream import stream_text
from .paths import VERSIONS
from .requests import admission_of, frame_of, read_checked_body, unless_disconnected
from .responses import event_stream, json_response

MAX_TOKENS = "max_tokens"
"""OpenAI's name of `max_new_tokens`, which clients of Triton send, too."""
MAX_NEW_TOKENS = "max_new_tokens"


class GenerateRequest(BaseModel):
    """The body of `/generate` and `/generate_stream`."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    text_input: str
    id: str | None = None
    parameters: dict[str, Any] | None = None

    def task_parameters(self, *, is_stream: bool) -> dict[str, Any]:
        """Return the `parameters` of /predict; raises InputError for a `stream` that contradicts the path."""
        given = self.parameters or {}
        check_number(len(given), "parameters")
        parameters = task_parameters(given)
        if parameters.pop("stream", is_stream) is not is_stream:
            path = "generate" if is_stream else "generate_stream"
            raise InputError('the parameter "stream" contradicts the path', f"POST to …/{path}, or leave it out")
        if MAX_TOKENS in parameters:
            if MAX_NEW_TOKENS in parameters:
                raise InputError(f"the parameters have {MAX_TOKENS} and {MAX_NEW_TOKENS}", "send one of them")
            parameters[MAX_NEW_TOKENS] = parameters.pop(MAX_TOKENS)
        return parameters


def generates(manifest: Manifest) -> bool:
    """Tell whether a model answers texts with texts."""
    spec = task_spec(manifest.task)
    return spec.streams and not spec.has_local_paths


async def generate(request: Request) -> Response:
    """Answer a text with the whole text."""
    body, admission = await _read_request(request), admission_of(request)
    parameters = body.task_parameters(is_stream=False)
    work = admission.infer([body.text_input], parameters, timeout_s=timeout_s(body.parameters or {}))
    (result,) = await unless_disconnected(request, work)
    return json_response(_content(admission.manifest, body, result.prediction))


async def generate_stream(request: Request) -> Response:
    """Answer a text with events: one for each piece of the text, then one with the other fields."""
    body, admission = await _read_request(request), admission_of(request)
    parameters, limit_s = body.task_parameters(is_stream=True), timeout_s(body.parameters or {})

    async def events() -> AsyncIterator[dict[str, Any]]:
        async for piece in stream_text(admission, body.text_input, parameters, timeout_s=limit_s):
            prediction = {"text": piece} if isinstance(piece, str) else {**piece.prediction, "text": ""}
            yield _content(admission.manifest, body, prediction)

    return await event_stream(request, events())


routes = [
    Route(f"/v2/models/{{model}}{version}{path}", endpoint, methods=["POST"])
    for version in VERSIONS
    for path, endpoint in (("/generate", generate), ("/generate_stream", generate_stream))
]


async def _read_request(request: Request) -> GenerateRequest:
    """Read and check the body; raises NotFound for a model that generates no text from a text."""
    manifest = admission_of(request).manifest
    if not generates(manifest):
        problem = f"a model for {manifest.task} generates no text from a text"
        raise NotFound(problem, f"POST to /v2/models/{manifest.name}/infer", code="not_routed")
    body = await read_checked_body(request, GenerateRequest, InputError)
    frame_of(request).inputs = [body.text_input]
    return body


def _content(manifest: Manifest, body: GenerateRequest, prediction: dict[str, Any]) -> dict[str, Any]:
    """Return a response with the text as `text_output` beside the other fields of a prediction."""
    fields = {"model_name": manifest.name, "model_version": manifest.version}
    if body.id is not None:
        fields["id"] = body.id
    rest = {name: value for name, value in prediction.items() if name != "text"}
    return {**fields, "text_output": prediction["text"], **rest}
