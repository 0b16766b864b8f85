"""What is written to a connection leaves in one piece, whole and in order, also where it is closed at once."""

import asyncio
import socket
from collections.abc import Callable
from typing import Any

import uvicorn
import uvloop
from starlette.responses import Response
from uvicorn.server import ServerState

from tuneport.stages.serve.http.protocol import extend_protocol
from tuneport.stages.serve.http.transport import MAX_KEPT_BYTES, GatheringTransport
from tuneport.stages.serve.settings import Settings

Write = Callable[[GatheringTransport], None]


class Sends(asyncio.Protocol):
    """Counts the calls that reach the connection's own transport."""

    def __init__(self) -> None:
        self.calls: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        send = transport.write  # type: ignore[attr-defined]

        def write(data: bytes) -> None:
            self.calls.append(data)
            send(data)

        transport.write = write  # type: ignore[attr-defined]
        self.gathering = GatheringTransport(transport, asyncio.get_running_loop())  # type: ignore[arg-type]


def sent(write: Write) -> tuple[list[bytes], bytes]:
    """Return the calls to send what `write` writes, and what comes at the other side until the connection ends."""

    async def run() -> tuple[list[bytes], bytes]:
        ours, theirs = socket.socketpair()
        _, protocol = await asyncio.get_running_loop().create_connection(Sends, sock=ours)
        reader, writer = await asyncio.open_connection(sock=theirs)
        write(protocol.gathering)
        await asyncio.sleep(0)
        protocol.gathering.close()
        received = await reader.read()
        writer.close()
        return protocol.calls, received

    return asyncio.run(asyncio.wait_for(run(), 10))


def test_head_and_body_are_sent_in_one_call() -> None:
    def write(transport: GatheringTransport) -> None:
        transport.write(b"head")
        transport.write(b"body")

    assert sent(write) == ([b"headbody"], b"headbody")


def test_what_was_written_is_sent_before_the_connection_closes() -> None:
    def write(transport: GatheringTransport) -> None:
        transport.write(b"last words")
        transport.close()
        transport.write(b"too late")

    assert sent(write) == ([b"last words"], b"last words")


def test_an_aborted_connection_sends_nothing() -> None:
    def write(transport: GatheringTransport) -> None:
        transport.write(b"x")
        transport.abort()

    assert sent(write) == ([], b"")


def test_large_parts_keep_their_order_and_are_not_copied() -> None:
    large = b"b" * (MAX_KEPT_BYTES + 1)

    def write(transport: GatheringTransport) -> None:
        for part in (b"a", large, b"c"):
            transport.write(part)

    calls, received = sent(write)
    assert received == b"a" + large + b"c"
    assert [len(call) for call in calls] == [1, len(large), 1]
    assert calls[1] is large


def test_no_more_is_kept_than_may_be() -> None:
    """Else a client that does not read would not slow down what writes."""
    half = b"b" * (MAX_KEPT_BYTES // 2)

    def write(transport: GatheringTransport) -> None:
        for _ in range(7):
            transport.write(half)

    calls, received = sent(write)
    assert received == 7 * half
    assert [len(call) // len(half) for call in calls] == [3, 3, 1]


class Segments(asyncio.Protocol):
    """Keeps what comes, as it comes."""

    def __init__(self) -> None:
        self.received: list[bytes] = []
        self.ended = asyncio.get_running_loop().create_future()

    def data_received(self, data: bytes) -> None:
        self.received.append(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended.set_result(None)


def test_a_response_of_the_service_is_whole_in_one_piece() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await Response(b"body")(scope, receive, send)

    async def run() -> list[bytes]:
        config = uvicorn.Config(app, log_config=None, lifespan="off", ws="none", http="httptools")
        config.load()
        state = ServerState()
        protocol = extend_protocol(config.http_protocol_class, Settings())
        ours, theirs = socket.socketpair()
        loop = asyncio.get_running_loop()
        await loop.connect_accepted_socket(lambda: protocol(config=config, server_state=state, app_state={}), ours)
        transport, client = await loop.create_connection(Segments, sock=theirs)
        transport.write(b"POST / HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
        await client.ended
        return client.received

    for runner in (asyncio.run, uvloop.run):
        [response] = runner(asyncio.wait_for(run(), 10))
        assert response.startswith(b"HTTP/1.1 200 OK\r\n")
        assert response.endswith(b"\r\n\r\nbody")
