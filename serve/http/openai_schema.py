"""Requests and responses of OpenAI's chat and completion protocol."""

import time
import uuid
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, FailFast, Field

from ..inference import InferenceResult


def _strings(value: Any) -> Any:
    """Refuse a list at its first item that is no string: a million of them must not become a million messages."""
    if isinstance(value, list) and not all(isinstance(item, str) for item in value):
        raise ValueError("the list has an item that is no string")
    return value


Strings = Annotated[list[str], BeforeValidator(_strings)]


class StreamOptions(BaseModel):
    """`stream_options` of a request."""

    model_config = ConfigDict(extra="forbid")

    include_usage: bool = False
    include_obfuscation: bool = False


class GenerationRequest(BaseModel):
    """The fields of both requests; those without an effect here are accepted only at their neutral value."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str
    max_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = None
    top_p: float | None = None
    stop: str | Strings | None = None
    seed: int | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: Literal[1] | None = None
    presence_penalty: Literal[0] | None = None
    frequency_penalty: Literal[0] | None = None
    user: str | None = None

    def parameters(self) -> dict[str, Any]:
        """Return the `parameters` of /predict."""
        parameters = {
            "max_new_tokens": self.max_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "stop": self.stop,
            "seed": self.seed,
        }
        return {name: value for name, value in parameters.items() if value is not None}

    @property
    def includes_usage(self) -> bool:
        """Whether a stream ends with a chunk of token counts."""
        return self.stream_options is not None and self.stream_options.include_usage


class ChatRequest(GenerationRequest):
    """`/v1/chat/completions`."""

    messages: Annotated[list[dict[str, Any]], FailFast()]
    max_completion_tokens: int | None = Field(default=None, ge=1)
    """The newer name of `max_tokens`."""
    logprobs: Literal[False] | None = None

    def parameters(self) -> dict[str, Any]:
        """Return the `parameters` of /predict."""
        limit = self.max_completion_tokens or self.max_tokens
        return {**super().parameters(), **({"max_new_tokens": limit} if limit else {})}

    def inputs(self) -> list[Any]:
        """Return the `inputs` of /predict."""
        return [{"messages": [_plain_message(message) for message in self.messages]}]


class CompletionRequest(GenerationRequest):
    """`/v1/completions`."""

    prompt: str | Strings
    echo: Literal[False] | None = None
    logprobs: None = None

    def inputs(self) -> list[Any]:
        """Return the `inputs` of /predict."""
        return [self.prompt] if isinstance(self.prompt, str) else list(self.prompt)


class ResponseFormat:
    """The fields that a response, or all chunks of a stream, have in common, and the shape of their choices."""

    def __init__(self, model: str, version: str, *, is_chat: bool, is_stream: bool) -> None:
        """Create an id and take the time."""
        kind = "chat.completion" if is_chat else "text_completion"
        self._is_chat = is_chat
        self._fields = {
            "id": f"{'chatcmpl' if is_chat else 'cmpl'}-{uuid.uuid4().hex}",
            "object": f"{kind}.chunk" if is_chat and is_stream else kind,
            "created": int(time.time()),
            "model": model,
            "system_fingerprint": version,
        }

    def response(self, results: Sequence[InferenceResult]) -> dict[str, Any]:
        """Return a complete response."""
        choices = [self._choice(i, result.prediction) for i, result in enumerate(results)]
        return {**self._fields, "choices": choices, "usage": _usage(results)}

    def chunk(self, text: str, *, is_first: bool = False) -> dict[str, Any]:
        """Return a chunk with a piece of the text; the first one of a chat names its role."""
        if not self._is_chat:
            return self._chunk({"text": text}, None)
        return self._chunk({"delta": {**({"role": "assistant"} if is_first else {}), "content": text}}, None)

    def last_chunk(self, finish_reason: str) -> dict[str, Any]:
        """Return the chunk that says why the text ended."""
        return self._chunk({"delta": {}} if self._is_chat else {"text": ""}, finish_reason)

    def usage_chunk(self, result: InferenceResult) -> dict[str, Any]:
        """Return the chunk with the token counts."""
        return {**self._fields, "choices": [], "usage": _usage([result])}

    def _choice(self, index: int, prediction: dict[str, Any]) -> dict[str, Any]:
        text = prediction["text"]
        content = {"message": {"role": "assistant", "content": text}} if self._is_chat else {"text": text}
        return {"index": index, **content, "finish_reason": prediction["finish_reason"], "logprobs": None}

    def _chunk(self, content: dict[str, Any], finish_reason: str | None) -> dict[str, Any]:
        choice = {"index": 0, **content, "finish_reason": finish_reason, "logprobs": None}
        return {**self._fields, "choices": [choice]}


def _plain_message(message: dict[str, Any]) -> dict[str, Any]:
    """Join the text parts of a message's content, and replace the role `developer` by its older name `system`.

    The task refuses other parts and roles.
    """
    content = message.get("content")
    if message.get("role") == "developer":
        message = {**message, "role": "system"}
    if isinstance(content, list) and all(isinstance(part, dict) and part.get("type") == "text" for part in content):
        message = {**message, "content": "".join(str(part.get("text", "")) for part in content)}
    return message


def _usage(results: Sequence[InferenceResult]) -> dict[str, int]:
    prompt_tokens, new_tokens = sum(each.prompt_tokens for each in results), sum(each.new_tokens for each in results)
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": new_tokens,
        "total_tokens": prompt_tokens + new_tokens,
    }
