"""What is written to a connection leaves in one piece, whole and in order, also where it is closed at once."""

import asyncio
import socket
from collections.abc import Callable

import pytest

from tuneport.stages.serve.http.transport import MAX_KEPT_BYTES, GatheringTransport

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


@pytest.mark.parametrize("size", [MAX_KEPT_BYTES, MAX_KEPT_BYTES + 1])
def test_large_parts_keep_their_order_and_are_not_kept(size: int) -> None:
    kept: list[int] = []

    def write(transport: GatheringTransport) -> None:
        transport.write(b"a")
        transport.write(b"b" * size)
        kept.append(len(transport._kept))
        transport.write(b"c")

    calls, received = sent(write)
    assert received == b"a" + b"b" * size + b"c"
    assert (kept, len(calls)) == (([2], 1) if size == MAX_KEPT_BYTES else ([0], 2))
