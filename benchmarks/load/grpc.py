"""A gRPC client connection for the load generator: the part of HTTP/2 (RFC 9113) that unary calls need.

The public Python client spends more CPU time on a call than the servers that are compared here, so it would limit
what can be measured. Request headers are HPACK literals (RFC 7541, 6.2.2). Response headers are not decoded: a unary
call that failed has no message, which is enough to count it as failed.
"""

import asyncio
import struct
from typing import Self, cast

from .plan import FAILED, OK

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0x0, 0x1, 0x3, 0x4, 0x6, 0x7, 0x8
ACK = END_STREAM = 0x1
END_HEADERS, PADDED = 0x4, 0x8
ENABLE_PUSH, INITIAL_WINDOW_SIZE = 0x2, 0x4
FRAME_HEADER_BYTES = 9
MESSAGE_PREFIX_BYTES = 5
"""Before each gRPC message: one byte tells whether it is compressed, four hold its length."""
MAX_WINDOW = 2**31 - 1
"""Bytes that the server may send before an update; renewed at half. Also the mask of 31-bit fields."""
DEFAULT_WINDOW = 65_535
"""Flow-control window of a new connection (RFC 9113, 6.9.2)."""
MAX_FRAME_BYTES = 16_384
"""Largest payload that every peer accepts (RFC 9113, 4.2)."""
MAX_LITERAL_BYTES = 127
"""HPACK lengths from here on take more than one byte."""


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """Prepend the nine-byte frame header to a payload."""
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def header_block(host: str, port: int, path: str) -> bytes:
    """Encode the headers of a call; names and values of HPACK's static table are written as their index."""
    return (
        b"\x83\x86"  # :method POST, :scheme http
        + b"\x04"
        + _literal(path)  # :path
        + b"\x01"
        + _literal(f"{host}:{port}")  # :authority
        + b"\x0f\x10"
        + _literal("application/grpc")  # content-type, whose index 31 is written as 15 + 16
        + b"\x00"
        + _literal("te")
        + _literal("trailers")
    )


def _literal(value: str) -> bytes:
    assert len(value) < MAX_LITERAL_BYTES, value
    return bytes([len(value)]) + value.encode()


class GrpcConnection(asyncio.Protocol):
    """A connection that carries one unary call at a time, each on a new stream."""

    def __init__(self) -> None:
        """Create the buffers; `connect` opens the connection."""
        self.is_open = False
        self._response: asyncio.Future[tuple[int, bytes]] | None = None
        self._transport: asyncio.WriteTransport
        self._received = bytearray()
        self._message = bytearray()
        self._stream = -1
        self._receive_window = MAX_WINDOW
        self._send_window = DEFAULT_WINDOW
        self._unsent = b""

    @staticmethod
    def prepare(host: str, port: int, path: str, body: bytes) -> bytes:
        """Return header block and message, without frames: the stream's number is not known yet."""
        block = header_block(host, port, path)
        return struct.pack(">H", len(block)) + block + b"\x00" + struct.pack(">I", len(body)) + body

    @classmethod
    async def connect(cls, host: str, port: int) -> Self:
        """Open a connection; an OSError if no server listens."""
        _, connection = await asyncio.get_running_loop().create_connection(cls, host, port)
        return connection

    def send(self, request: bytes) -> "asyncio.Future[tuple[int, bytes]]":
        """Send a prepared call; the future resolves to `OK` and the message, or `FAILED` and nothing.

        It raises ConnectionError if the connection closes first.
        """
        self._response = asyncio.get_running_loop().create_future()
        self._message.clear()
        self._stream += 2
        (block_size,) = struct.unpack_from(">H", request)
        self._transport.write(frame(HEADERS, END_HEADERS, self._stream, request[2 : 2 + block_size]))
        self._unsent = request[2 + block_size :]
        self._send_data()
        return self._response

    def close(self) -> None:
        """Close the connection."""
        self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the preface, and open the windows of the connection and of streams (asyncio)."""
        self._transport = cast(asyncio.WriteTransport, transport)  # uvloop's class is not declared as one
        self.is_open = True
        settings = struct.pack(">HIHI", ENABLE_PUSH, 0, INITIAL_WINDOW_SIZE, MAX_WINDOW)
        increment = struct.pack(">I", MAX_WINDOW - DEFAULT_WINDOW)
        self._transport.write(PREFACE + frame(SETTINGS, 0, 0, settings) + frame(WINDOW_UPDATE, 0, 0, increment))

    def data_received(self, data: bytes) -> None:
        """Handle the frames that are complete (asyncio)."""
        self._received += data
        while len(self._received) >= FRAME_HEADER_BYTES:
            end = FRAME_HEADER_BYTES + int.from_bytes(self._received[:3], "big")
            if len(self._received) < end:
                return
            kind, flags = self._received[3], self._received[4]
            stream = int.from_bytes(self._received[5:FRAME_HEADER_BYTES], "big") & MAX_WINDOW
            payload = bytes(self._received[FRAME_HEADER_BYTES:end])
            del self._received[:end]
            self._handle_frame(kind, flags, stream, payload)

    def connection_lost(self, error: Exception | None) -> None:
        """Fail the call that has no response yet (asyncio)."""
        self.is_open = False
        if self._response and not self._response.done():
            self._response.set_exception(ConnectionError("the server closed the connection"))

    def _handle_frame(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == DATA:
            self._receive_data(payload[1 : len(payload) - payload[0]] if flags & PADDED else payload, len(payload))
        elif kind == SETTINGS and not flags & ACK:
            self._transport.write(frame(SETTINGS, ACK, 0))
        elif kind == PING and not flags & ACK:
            self._transport.write(frame(PING, ACK, 0, payload))
        elif kind == WINDOW_UPDATE and stream == 0:
            self._send_window += int.from_bytes(payload, "big") & MAX_WINDOW
            self._send_data()
        elif kind == GOAWAY:
            self._transport.close()
        is_last = kind == RST_STREAM or (kind in (DATA, HEADERS) and flags & END_STREAM)
        if is_last and stream == self._stream and self._response and not self._response.done():
            message = bytes(self._message[MESSAGE_PREFIX_BYTES:])
            self._response.set_result((OK, message) if self._message else (FAILED, b""))

    def _receive_data(self, data: bytes, frame_size: int) -> None:
        """Append to the message; `frame_size` counts the padding, too, as flow control does."""
        self._message += data
        self._receive_window -= frame_size
        if self._receive_window < MAX_WINDOW // 2:
            increment = struct.pack(">I", MAX_WINDOW - self._receive_window)
            self._transport.write(frame(WINDOW_UPDATE, 0, 0, increment))
            self._receive_window = MAX_WINDOW

    def _send_data(self) -> None:
        """Send as much of the message as the connection's window allows.

        The stream's own window, 65,535 bytes or more on gRPC servers, is not tracked.
        """
        while self._unsent and self._send_window:
            part = self._unsent[: min(MAX_FRAME_BYTES, self._send_window)]
            self._unsent = self._unsent[len(part) :]
            self._send_window -= len(part)
            self._transport.write(frame(DATA, 0 if self._unsent else END_STREAM, self._stream, part))
