"""Stream one text while it is generated: `"stream": true` at /predict."""

from collections.abc import AsyncIterator, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import StreamingResponse

from tuneport.errors import InputError

from ..text_stream import stream_text
from .requests import admission_of
from .responses import event_stream


async def stream_prediction(request: Request, inputs: Sequence[Any], parameters: dict[str, Any]) -> StreamingResponse:
    """Answer /predict with events: `{"delta"}` for each piece, then `{"prediction", "model"}`."""
    admission = admission_of(request)
    if len(inputs) != 1:
        problem = f"{len(inputs)} inputs cannot be streamed"
        raise InputError(problem, "send one, or leave out stream", code="several_inputs")

    async def events() -> AsyncIterator[dict[str, Any]]:
        async for piece in stream_text(admission, inputs[0], parameters):
            if isinstance(piece, str):
                yield {"delta": piece}
            else:
                yield {"prediction": piece.prediction, "model": admission.model}

    return await event_stream(request, events())
