"""One text, and its pieces while it is written: `"stream": true` at /predict, and the OpenAI door."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from starlette.responses import StreamingResponse

from serve.desk import Desk
from serve.errors import Refused, refusal_of
from serve.tasks.generation import Parameters, Prompt, WritingTask

UNFINISHED = "\ufffd"
"""What decoders show for a character of which bytes are missing."""
HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


@dataclass(frozen=True)
class Written:
    """An answer, and what it cost."""

    prediction: dict[str, Any]
    prompt_tokens: int
    new_tokens: int
    truncated: bool


class Ear:
    """Hears tokens in the engine's thread and passes them to the event loop."""

    def __init__(self) -> None:
        """Listen until cancelled."""
        self.cancelled = False
        self._loop = asyncio.get_running_loop()
        self.tokens: asyncio.Queue[int] = asyncio.Queue()

    def hear(self, token: int) -> None:
        """Pass a token on."""
        self._loop.call_soon_threadsafe(self.tokens.put_nowait, token)


def writes(desk: Desk) -> WritingTask:
    """Return the task; Refused where the model writes nothing."""
    task = desk.predictor.model.task
    if not isinstance(task, WritingTask):
        name = desk.predictor.manifest.task
        raise Refused(422, "wrong_parameters", f"a model for {name} does not stream", "leave out stream")
    return task


async def write(desk: Desk, value: Any, parameters: Any, ear: Ear | None = None, *, whole: bool = False) -> Written:
    """Answer one input within the request's time; with an `ear` there is no such limit, only one for each token.

    With `whole` a prompt that would have to be cut is refused. Raises what `refusal_of` understands.
    """
    predictor, task = desk.predictor, writes(desk)
    checked = predictor.read_parameters(parameters)
    assert isinstance(checked, Parameters)
    desk.check_size([value])
    (given,) = predictor.read_inputs([value])
    loop = asyncio.get_running_loop()
    ((prompt,),) = await loop.run_in_executor(None, task.encode, [given])
    assert isinstance(prompt, Prompt)
    if whole and prompt.truncated:
        problem = f"the prompt has over {predictor.manifest.processing.max_length} tokens"
        raise Refused(400, "context_length_exceeded", problem, "send a shorter one")
    rows = task.ask([prompt], checked, ear)
    limit_s = None if ear else desk.settings.request_timeout_s
    try:
        async with asyncio.timeout(limit_s):
            (result,) = await predictor.batcher.submit(rows, loop.time() + desk.settings.request_timeout_s)
    except TimeoutError:
        problem = f"no answer within {desk.settings.request_timeout_s:g} s"
        raise Refused(503, "timeout", problem, "ask for fewer tokens or add replicas") from None
    prediction = task.decode(given, rows, [result], checked)
    desk.metrics.predictions([prediction])
    return Written(prediction, len(prompt), len(result["tokens"]), prompt.truncated)


async def pieces(desk: Desk, value: Any, parameters: dict[str, Any], *, whole: bool = False) -> AsyncIterator[Any]:
    """Yield the text's pieces, strings, as they come, and `Written` in the end; together they are its text."""
    task, ear = writes(desk), Ear()
    writing = asyncio.ensure_future(write(desk, value, {**parameters, "stream": True}, ear, whole=whole))
    checked = desk.predictor.read_parameters({**parameters, "stream": True})
    assert isinstance(checked, Parameters)
    stop = checked.stop
    tokens: list[int] = []
    sent = ""
    try:
        while (token := await _next(ear, writing, desk.settings.request_timeout_s)) is not None:
            tokens.append(token)
            shown = _settled(task, tokens, stop)
            if shown.startswith(sent) and len(shown) > len(sent):
                yield shown[len(sent) :]
                sent = shown
        written = await writing
        if rest := written.prediction["text"].removeprefix(sent):
            yield rest
        yield written
    finally:
        ear.cancelled = True  # ends the row with its next token
        writing.cancel()


async def stream_answer(desk: Desk, inputs: Sequence[Any], parameters: dict[str, Any]) -> StreamingResponse:
    """Answer /predict with events: `{"delta"}` for each piece, then `{"prediction", "model"}`."""
    if len(inputs) != 1:
        raise Refused(
            422, "several_inputs", f"{len(inputs)} inputs cannot be streamed", "send one, or leave out stream"
        )

    async def events() -> AsyncIterator[dict[str, Any]]:
        async for piece in pieces(desk, inputs[0], parameters):
            if isinstance(piece, str):
                yield {"delta": piece}
            else:
                yield {"prediction": piece.prediction, "model": desk.predictor.describe()}

    return await respond(events())


async def respond(events: AsyncIterator[Any], last: str | None = None) -> StreamingResponse:
    """Send JSON values as server-sent events, `last` as it is behind them.

    The first is awaited here: what fails before it gets a status of its own, what fails later an event.
    """
    first = await anext(events)

    async def lines() -> AsyncIterator[bytes]:
        yield _event(first)
        try:
            async for event in events:
                yield _event(event)
        except Exception as error:
            yield _event(refusal_of(error).as_json())
            return
        if last is not None:
            yield f"data: {last}\n\n".encode()

    return StreamingResponse(lines(), headers=HEADERS, media_type="text/event-stream")


def _event(value: Any) -> bytes:
    return b"data: " + orjson.dumps(value) + b"\n\n"


async def _next(ear: Ear, writing: "asyncio.Future[Written]", limit_s: float) -> int | None:
    """Wait for the next token; None when the text is at its end."""
    waiting = asyncio.ensure_future(ear.tokens.get())
    both: set[asyncio.Future[Any]] = {waiting, writing}
    try:
        done, _ = await asyncio.wait(both, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        if not waiting.done():
            waiting.cancel()
    if not done:
        raise Refused(503, "timeout", f"no token within {limit_s:g} s", "ask for fewer tokens or add replicas")
    return waiting.result() if waiting in done else None


def _settled(task: WritingTask, tokens: Sequence[int], stop: Sequence[str]) -> str:
    """Return what of the text so far no further token can change: no half characters, no half stops."""
    text, _ = task.text_of(tokens, stop)
    text = text.rstrip(UNFINISHED)
    text = text.rstrip() if task.is_stripped else text
    longest = max((n for each in stop for n in range(1, len(each)) if text.endswith(each[:n])), default=0)
    return text[: len(text) - longest]
