"""A generated text as it comes, through both clients."""

import asyncio
from typing import Any

import pytest
from kit.clients import BUSY, call_sync
from kit.scripted import Answer, scripted_server
from kit.serving import LocalService

import tuneport
from tuneport import errors


def read_stream(url: str, kind: str, value: Any, parameters: dict[str, Any]) -> tuple[list[str], Any, Any]:
    if kind == "sync":
        with tuneport.Client(url) as client, client.stream(value, parameters) as stream:
            return list(stream), stream.prediction, stream.model

    async def run() -> Any:
        async with tuneport.AsyncClient(url) as client, client.stream(value, parameters) as stream:
            return [piece async for piece in stream], stream.prediction, stream.model

    return asyncio.run(run())  # type: ignore[no-any-return]


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_text_is_streamed(kind: str, generator: LocalService) -> None:
    pieces, prediction, model = read_stream(generator.url, kind, "one two", {"max_new_tokens": 9})
    (expected,) = call_sync(generator.url, "predict", ["one two"], {"max_new_tokens": 9})
    assert prediction == expected
    assert "".join(pieces) == expected["text"]
    assert len(pieces) > 1
    assert model is not None
    assert model.variant == "fp32"


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_stream_that_cannot_begin_raises(kind: str, service: LocalService, generator: LocalService) -> None:
    with pytest.raises(errors.InputError, match="does not stream"):
        read_stream(service.url, kind, "one", {})
    with pytest.raises(errors.InputError):
        read_stream(generator.url, kind, "one", {"max_new_tokens": -1})


EVENT = b'data: {"delta": "one"}\n\n'
LAST = b'data: {"prediction": {"text": "one"}, "model": {"name": "m", "version": "v", "variant": "fp32"}}\n\n'


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_stream_is_sent_again_only_before_its_first_piece(kind: str) -> None:
    with scripted_server(BUSY, Answer(200, EVENT + LAST)) as server:
        assert read_stream(server.url, kind, "a", {})[:2] == (["one"], {"text": "one"})
    for broken in (Answer(200, EVENT), Answer(200, EVENT, missing=40)):
        with scripted_server(broken, Answer(200, EVENT + LAST)) as server:
            with pytest.raises(errors.Unavailable):
                read_stream(server.url, kind, "a", {})
        assert len(server.request_ids) == 1
    failed = b'data: {"error": {"code": "internal", "message": "the model failed", "remedy": "r"}}\n\n'
    with scripted_server(Answer(200, EVENT + failed)) as server, pytest.raises(errors.ServiceFailed, match="failed"):
        read_stream(server.url, kind, "a", {})
