"""OpenAI's `/v1` for models that generate text, as far as one model in one process has an answer for it."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from serve.desk import Desk
from serve.errors import Refused
from serve.streaming import Written, pieces, respond, write

TASK = "text-generation"
Form = TypeVar("Form", bound="Asked")


class Options(BaseModel):
    """`stream_options`."""

    model_config = ConfigDict(extra="forbid")

    include_usage: bool = False
    include_obfuscation: bool = False


class Asked(BaseModel):
    """What both requests have; fields whose effect is not offered are accepted only at their neutral value."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str
    max_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = None
    top_p: float | None = None
    stop: str | list[str] | None = None
    seed: int | None = None
    stream: bool = False
    stream_options: Options | None = None
    n: Literal[1] | None = None
    presence_penalty: Literal[0] | None = None
    frequency_penalty: Literal[0] | None = None
    user: str | None = None

    def parameters(self) -> dict[str, Any]:
        """Say it in the words of /predict."""
        said = {
            "max_new_tokens": self.max_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "stop": self.stop,
            "seed": self.seed,
        }
        return {name: value for name, value in said.items() if value is not None}


class Chat(Asked):
    """`/v1/chat/completions`."""

    messages: list[dict[str, Any]]
    max_completion_tokens: int | None = Field(default=None, ge=1)
    logprobs: Literal[False] | None = None

    def parameters(self) -> dict[str, Any]:
        """Take the newer name of the limit, too."""
        limit = self.max_completion_tokens or self.max_tokens
        return {**super().parameters(), **({"max_new_tokens": limit} if limit else {})}

    def value(self) -> Any:
        """Make an input of the messages; content in parts is joined."""
        return {"messages": [_plain(message) for message in self.messages]}


class Completion(Asked):
    """`/v1/completions`."""

    prompt: str | list[str]
    echo: Literal[False] | None = None
    logprobs: None = None


async def models(request: Request) -> Response:
    """List the one model, or describe it."""
    desk = _desk(request)
    made = {"id": desk.predictor.manifest.name, "object": "model", "created": 0, "owned_by": "tuneport"}
    if "model" in request.path_params:
        _check_model(desk, request.path_params["model"])
        return _json(made)
    return _json({"object": "list", "data": [made]})


async def chat(request: Request) -> Response:
    """Answer a chat, whole or in chunks."""
    desk = _desk(request)
    asked = await _read(request, desk, Chat)
    frame = _frame(desk, "chat.completion.chunk" if asked.stream else "chat.completion", "chatcmpl")
    if asked.stream:
        return await respond(_chunks(desk, asked, asked.value(), frame, is_chat=True), "[DONE]")
    written = await _unless_left(request, write(desk, asked.value(), asked.parameters(), whole=True))
    message = {"role": "assistant", "content": written.prediction["text"]}
    choice = {"index": 0, "message": message, "finish_reason": written.prediction["finish_reason"], "logprobs": None}
    return _json({**frame, "choices": [choice], "usage": _usage([written])})


async def completions(request: Request) -> Response:
    """Go on with a prompt, or with several at a time."""
    desk = _desk(request)
    asked = await _read(request, desk, Completion)
    prompts = [asked.prompt] if isinstance(asked.prompt, str) else asked.prompt
    desk.check_size(prompts)
    frame = _frame(desk, "text_completion", "cmpl")
    if asked.stream:
        if len(prompts) > 1:
            raise Refused(400, "several_inputs", "several prompts cannot be streamed", "send one")
        return await respond(_chunks(desk, asked, prompts[0], frame, is_chat=False), "[DONE]")
    writing = asyncio.gather(*(write(desk, prompt, asked.parameters(), whole=True) for prompt in prompts))
    all_written = await _unless_left(request, writing)
    choices = [
        {
            "index": i,
            "text": written.prediction["text"],
            "finish_reason": written.prediction["finish_reason"],
            "logprobs": None,
        }
        for i, written in enumerate(all_written)
    ]
    return _json({**frame, "choices": choices, "usage": _usage(all_written)})


routes = [
    Route("/v1/models", models),
    Route("/v1/models/{model:path}", models),
    Route("/v1/chat/completions", chat, methods=["POST"]),
    Route("/v1/completions", completions, methods=["POST"]),
]


async def _chunks(desk: Desk, asked: Asked, value: Any, frame: Any, *, is_chat: bool) -> AsyncIterator[Any]:
    def chunk(text: str, reason: str | None = None, role: str | None = None) -> Any:
        if not is_chat:
            return {**frame, "choices": [{"index": 0, "text": text, "finish_reason": reason, "logprobs": None}]}
        delta = {**({"role": role} if role else {}), **({"content": text} if reason is None else {})}
        return {**frame, "choices": [{"index": 0, "delta": delta, "finish_reason": reason, "logprobs": None}]}

    role: str | None = "assistant"
    async for piece in pieces(desk, value, asked.parameters(), whole=True):
        if isinstance(piece, str):
            yield chunk(piece, role=role)
            role = None
            continue
        if role and is_chat:  # there was nothing to say
            yield chunk("", role=role)
        yield chunk("", reason=piece.prediction["finish_reason"])
        if asked.stream_options and asked.stream_options.include_usage:
            yield {**frame, "choices": [], "usage": _usage([piece])}


async def _read(request: Request, desk: Desk, form: type[Form]) -> Form:
    from serve.http import read_body

    try:
        asked = form.model_validate_json(await read_body(request))
    except ValidationError as error:
        wrong = ", ".join(f"{'.'.join(map(str, e['loc'])) or 'body'}: {e['msg']}" for e in error.errors()[:5])
        known = ", ".join(form.model_fields)
        raise Refused(400, "invalid_request", f"wrong request: {wrong[:500]}", f"known fields: {known}") from error
    _check_model(desk, asked.model)
    return asked


async def _unless_left(request: Request, answering: Any) -> Any:
    from serve.http import unless_left

    return await unless_left(request, answering)


def _desk(request: Request) -> Desk:
    desk: Desk = request.app.state.desk
    task = desk.predictor.manifest.task
    if task != TASK:
        raise Refused(404, "not_routed", f"this model is for {task}, and /v1 is for {TASK}", "POST to /predict")
    return desk


def _check_model(desk: Desk, name: str) -> None:
    if name != desk.predictor.manifest.name:
        known = desk.predictor.manifest.name
        raise Refused(404, "model_not_found", f"there is no model {name[:80]!r}", f"ask for {known!r}")


def _plain(message: dict[str, Any]) -> dict[str, Any]:
    """Join the text parts of a message, and say `system` for its newer name; what else there is the task refuses."""
    content = message.get("content")
    if message.get("role") == "developer":
        message = {**message, "role": "system"}
    if isinstance(content, list) and all(isinstance(part, dict) and part.get("type") == "text" for part in content):
        message = {**message, "content": "".join(str(part.get("text", "")) for part in content)}
    return message


def _frame(desk: Desk, kind: str, prefix: str) -> dict[str, Any]:
    return {
        "id": f"{prefix}-{uuid.uuid4().hex}",
        "object": kind,
        "created": int(time.time()),
        "model": desk.predictor.manifest.name,
        "system_fingerprint": desk.predictor.manifest.version,
    }


def _usage(written: list[Written]) -> dict[str, int]:
    prompt, new = sum(each.prompt_tokens for each in written), sum(each.new_tokens for each in written)
    return {"prompt_tokens": prompt, "completion_tokens": new, "total_tokens": prompt + new}


def _json(content: Any) -> Response:
    from serve.http import json_answer

    return json_answer(content)
