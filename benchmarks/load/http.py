"""An HTTP/1.1 client connection for the load generator: requests are prepared bytes, responses are parsed in C."""

import asyncio
from typing import Self, cast

import httptools


class HttpConnection(asyncio.Protocol):
    """A keep-alive connection that carries one request at a time."""

    def __init__(self) -> None:
        """Create the parser; `connect` opens the connection."""
        self.is_open = False
        self._parser = httptools.HttpResponseParser(self)
        self._body = bytearray()
        self._response: asyncio.Future[tuple[int, bytes]] | None = None
        self._transport: asyncio.WriteTransport

    @staticmethod
    def prepare(host: str, port: int, path: str, body: bytes) -> bytes:
        """Return the bytes of a POST request with a JSON body."""
        head = f"POST {path} HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/json\r\n"
        return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body

    @classmethod
    async def connect(cls, host: str, port: int) -> Self:
        """Open a connection; an OSError if no server listens."""
        _, connection = await asyncio.get_running_loop().create_connection(cls, host, port)
        return connection

    def send(self, request: bytes) -> "asyncio.Future[tuple[int, bytes]]":
        """Send a prepared request; the future resolves to status and body, or raises ConnectionError."""
        self._response = asyncio.get_running_loop().create_future()
        self._body.clear()
        self._transport.write(request)
        return self._response

    def close(self) -> None:
        """Close the connection."""
        self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport (asyncio)."""
        self._transport = cast(asyncio.WriteTransport, transport)  # uvloop's class is not declared as one
        self.is_open = True

    def data_received(self, data: bytes) -> None:
        """Feed the parser (asyncio)."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._transport.abort()

    def on_body(self, part: bytes) -> None:
        """Append to the body (httptools)."""
        self._body += part

    def on_message_complete(self) -> None:
        """Resolve the response (httptools)."""
        self.is_open = self._parser.should_keep_alive()
        if self._response and not self._response.done():
            self._response.set_result((self._parser.get_status_code(), bytes(self._body)))
        if not self.is_open:
            self._transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        """Fail the request that has no response yet (asyncio)."""
        self.is_open = False
        if self._response and not self._response.done():
            self._response.set_exception(ConnectionError("the server closed the connection"))
