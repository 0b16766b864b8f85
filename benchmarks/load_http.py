"""One HTTP/1.1 connection of the load: bytes prepared beforehand, answers parsed in C."""

import asyncio
from typing import Self, cast

import httptools


class HttpConnection(asyncio.Protocol):
    """Keeps alive; one request at a time."""

    def __init__(self) -> None:
        """Wait for the connection."""
        self.is_open = False
        self._parser = httptools.HttpResponseParser(self)
        self._body = bytearray()
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None
        self._transport: asyncio.WriteTransport

    @staticmethod
    def prepare(host: str, port: int, path: str, body: bytes) -> bytes:
        """Return the bytes of a POST of JSON."""
        head = f"POST {path} HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/json\r\n"
        return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body

    @classmethod
    async def connect(cls, host: str, port: int) -> Self:
        """Open a connection; an OSError if nobody listens."""
        _, connection = await asyncio.get_running_loop().create_connection(cls, host, port)
        return connection

    def ask(self, request: bytes) -> "asyncio.Future[tuple[int, bytes]]":
        """Send a prepared request; the future gets status and body, or a ConnectionError."""
        self._answer = asyncio.get_running_loop().create_future()
        self._body.clear()
        self._transport.write(request)
        return self._answer

    def close(self) -> None:
        """Close it."""
        self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start."""
        self._transport = cast(asyncio.WriteTransport, transport)  # uvloop's are, without saying so
        self.is_open = True

    def data_received(self, data: bytes) -> None:
        """Feed the parser, which calls back."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._transport.abort()

    def on_body(self, part: bytes) -> None:
        """Collect."""
        self._body += part

    def on_message_complete(self) -> None:
        """Hand the answer over."""
        self.is_open = self._parser.should_keep_alive()
        if self._answer and not self._answer.done():
            self._answer.set_result((self._parser.get_status_code(), bytes(self._body)))
        if not self.is_open:
            self._transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        """Fail the request that waits."""
        self.is_open = False
        if self._answer and not self._answer.done():
            self._answer.set_exception(ConnectionError("the server closed the connection"))
