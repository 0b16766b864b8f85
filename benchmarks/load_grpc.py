"""One gRPC connection of the load: as much of HTTP/2 (RFC 9113) as unary calls need, on prepared bytes.

The public client spends more processor time on a request than the servers that are compared here, so it would
measure itself. Headers are written as HPACK literals (RFC 7541, 6.2.2) and not read: a unary call that failed has
no message, which is all that a count of answers asks.
"""

import asyncio
import struct
from typing import Self, cast

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0x0, 0x1, 0x3, 0x4, 0x6, 0x7, 0x8
ACK = END_STREAM = 0x1
END_HEADERS, PADDED = 0x4, 0x8
ENABLE_PUSH, INITIAL_WINDOW_SIZE = 0x2, 0x4
WINDOW = 2**31 - 1
"""Bytes that the server may send unasked; renewed before it is used up."""
FIRST_WINDOW = 65_535
LARGEST_FRAME = 16_384
OK, FAILED = 200, 500


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """Put a frame's nine bytes before its payload."""
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def header_block(host: str, port: int, path: str) -> bytes:
    """Write the headers of a call, with the names and values of HPACK's static table by index."""
    return (
        b"\x83\x86"  # :method POST, :scheme http
        + b"\x04"
        + _text(path)  # :path
        + b"\x01"
        + _text(f"{host}:{port}")  # :authority
        + b"\x0f\x10"
        + _text("application/grpc")  # content-type, whose index 31 is 15 + 16
        + b"\x00"
        + _text("te")
        + _text("trailers")
    )


def _text(value: str) -> bytes:
    assert len(value) < 127, value  # one byte of length
    return bytes([len(value)]) + value.encode()


class GrpcConnection(asyncio.Protocol):
    """One unary call at a time."""

    def __init__(self) -> None:
        """Wait for the connection."""
        self.is_open = False
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None
        self._transport: asyncio.WriteTransport
        self._received = bytearray()
        self._message = bytearray()
        self._stream = -1
        self._unread = WINDOW
        self._may_send = FIRST_WINDOW
        self._unsent = b""

    @staticmethod
    def prepare(host: str, port: int, path: str, body: bytes) -> bytes:
        """Return the header block and the message; frames need the stream's number, which is not known yet."""
        block = header_block(host, port, path)
        return struct.pack(">H", len(block)) + block + b"\x00" + struct.pack(">I", len(body)) + body

    @classmethod
    async def connect(cls, host: str, port: int) -> Self:
        """Open a connection; an OSError if nobody listens."""
        _, connection = await asyncio.get_running_loop().create_connection(cls, host, port)
        return connection

    def ask(self, request: bytes) -> "asyncio.Future[tuple[int, bytes]]":
        """Send a prepared call; the future gets 200 and the message, or 500 and nothing, or a ConnectionError."""
        self._answer = asyncio.get_running_loop().create_future()
        self._message.clear()
        self._stream += 2
        (size,) = struct.unpack_from(">H", request)
        self._transport.write(frame(HEADERS, END_HEADERS, self._stream, request[2 : 2 + size]))
        self._unsent = request[2 + size :]
        self._send()
        return self._answer

    def close(self) -> None:
        """Close it."""
        self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet, and let the server send without asking."""
        self._transport = cast(asyncio.WriteTransport, transport)  # uvloop's are, without saying so
        self.is_open = True
        settings = struct.pack(">HIHI", ENABLE_PUSH, 0, INITIAL_WINDOW_SIZE, WINDOW)
        more = struct.pack(">I", WINDOW - FIRST_WINDOW)
        self._transport.write(PREFACE + frame(SETTINGS, 0, 0, settings) + frame(WINDOW_UPDATE, 0, 0, more))

    def data_received(self, data: bytes) -> None:
        """Take whole frames off what has come."""
        self._received += data
        while len(self._received) >= 9:
            size = int.from_bytes(self._received[:3], "big")
            if len(self._received) < 9 + size:
                return
            kind, flags = self._received[3], self._received[4]
            stream = int.from_bytes(self._received[5:9], "big") & WINDOW
            payload = bytes(self._received[9 : 9 + size])
            del self._received[: 9 + size]
            self._take(kind, flags, stream, payload)

    def connection_lost(self, error: Exception | None) -> None:
        """Fail the call that waits."""
        self.is_open = False
        if self._answer and not self._answer.done():
            self._answer.set_exception(ConnectionError("the server closed the connection"))

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == DATA:
            self._take_data(payload[1 : len(payload) - payload[0]] if flags & PADDED else payload, len(payload))
        elif kind == SETTINGS and not flags & ACK:
            self._transport.write(frame(SETTINGS, ACK, 0))
        elif kind == PING and not flags & ACK:
            self._transport.write(frame(PING, ACK, 0, payload))
        elif kind == WINDOW_UPDATE and stream == 0:
            self._may_send += int.from_bytes(payload, "big") & WINDOW
            self._send()
        elif kind == GOAWAY:
            self._transport.close()
        is_last = kind == RST_STREAM or (kind in (DATA, HEADERS) and flags & END_STREAM)
        if is_last and stream == self._stream and self._answer and not self._answer.done():
            # Five bytes before the message tell whether it is compressed, and its length.
            self._answer.set_result((OK, bytes(self._message[5:])) if self._message else (FAILED, b""))

    def _take_data(self, data: bytes, size: int) -> None:
        self._message += data
        self._unread -= size
        if self._unread < WINDOW // 2:
            self._transport.write(frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", WINDOW - self._unread)))
            self._unread = WINDOW

    def _send(self) -> None:
        """Send as much of the message as the connection's window lets; streams' own windows are as large at first."""
        while self._unsent and self._may_send:
            part = self._unsent[: min(LARGEST_FRAME, self._may_send)]
            self._unsent = self._unsent[len(part) :]
            self._may_send -= len(part)
            self._transport.write(frame(DATA, 0 if self._unsent else END_STREAM, self._stream, part))
