"""Stream one text while it is generated, for both protocols."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from tuneport.errors import DeadlineExceeded, InputError
from tuneport.runtime.tasks.generation import GenerationTask
from tuneport.runtime.tasks.sampling import GenerationParameters
from tuneport.tasks import task_spec

from .admission import AdmissionController
from .inference import InferenceResult

INCOMPLETE_CHARACTER = "\ufffd"
"""What decoders return for a character of which bytes are missing."""


class TokenStream:
    """A `TokenCallback` that passes tokens from the engine's thread to the event loop."""

    def __init__(self) -> None:
        """Create the stream in the event loop that will read it."""
        self.cancelled = False
        self.tokens: asyncio.Queue[int] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()

    def on_token(self, token: int) -> None:
        """Pass a token on; called in the engine's thread."""
        self._loop.call_soon_threadsafe(self.tokens.put_nowait, token)


async def stream_text(
    admission: AdmissionController,
    value: Any,
    parameters: dict[str, Any],
    *,
    allow_truncation: bool = True,
    timeout_s: float | None = None,
) -> AsyncGenerator[str | InferenceResult, None]:
    """Yield the pieces of the answer to one input as its tokens are generated, then the result.

    The pieces add up to the result's text. Raises what `AdmissionController.infer` raises, and DeadlineExceeded when
    a token takes longer than the request timeout. `timeout_s` bounds the wait in the queue, if it is shorter.
    """
    task, parameters = _generation_task(admission), {**parameters, "stream": True}
    checked = admission.inference.predictor.parse_parameters(parameters)
    assert isinstance(checked, GenerationParameters)
    stream = TokenStream()
    inference = asyncio.ensure_future(
        admission.infer([value], parameters, timeout_s=timeout_s, callback=stream, allow_truncation=allow_truncation)
    )
    tokens: list[int] = []
    sent = ""
    try:
        while (token := await _next_token(stream, inference, admission.settings.request_timeout_s)) is not None:
            tokens.append(token)
            text = _final_text(task, tokens, checked.stop)
            if text.startswith(sent) and len(text) > len(sent):
                yield text[len(sent) :]
                sent = text
        (result,) = await inference
        if rest := result.prediction["text"].removeprefix(sent):
            yield rest
        yield result
    finally:
        stream.cancelled = True  # the runner ends the row at its next token
        inference.cancel()


def _generation_task(admission: AdmissionController) -> GenerationTask:
    """Return the task; an InputError if its answers cannot be streamed."""
    name = admission.manifest.task
    if not task_spec(name).streams:
        raise InputError(f"a model for {name} does not stream", "leave out stream", code="wrong_parameters")
    task = admission.inference.predictor.task
    assert isinstance(task, GenerationTask)
    return task


async def _next_token(stream: TokenStream, inference: "asyncio.Future[Any]", limit_s: float) -> int | None:
    """Wait for the next token; return None when the inference has ended and no token is left."""
    next_token = asyncio.ensure_future(stream.tokens.get())
    pending: set[asyncio.Future[Any]] = {next_token, inference}
    try:
        done, _ = await asyncio.wait(pending, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        if not next_token.done():
            next_token.cancel()
    if not done:
        raise DeadlineExceeded(f"no token within {limit_s:g} s", "ask for fewer tokens or add replicas")
    return next_token.result() if next_token in done else None


def _final_text(task: GenerationTask, tokens: Sequence[int], stop: Sequence[str]) -> str:
    """Return the part of the text so far that no further token can change.

    It ends before an incomplete character and before what may be the beginning of a stop string.
    """
    text, _ = task.text_of(tokens, stop)
    text = text.rstrip(INCOMPLETE_CHARACTER)
    text = text.rstrip() if task.is_stripped else text
    partial_stop = max((n for each in stop for n in range(1, len(each)) if text.endswith(each[:n])), default=0)
    return text[: len(text) - partial_stop]
