"""A server that does nothing, so that the load can be measured itself: `python -m benchmarks.load_null PORT`."""

import asyncio
import sys
from typing import cast

import uvloop

ANSWER = b'{"predictions":[{"label":"none","score":0.5}],"model":{"name":"null","version":"0","variant":"null"}}'
RESPONSE = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (len(ANSWER), ANSWER)
LENGTH = b"Content-Length: "
"""As `benchmarks.load_http` writes it; nobody else asks this server."""


class Null(asyncio.Protocol):
    """Answers each whole request with the same bytes; any GET, too, for those who ask whether it is ready."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start."""
        self._transport = cast(asyncio.WriteTransport, transport)  # uvloop's are, without saying so
        self._data = b""

    def data_received(self, data: bytes) -> None:
        """Answer when the body is whole."""
        self._data += data
        head, found, body = self._data.partition(b"\r\n\r\n")
        size = int(head.partition(LENGTH)[2].partition(b"\r")[0] or 0)
        if found and len(body) >= size:
            self._data = b""
            self._transport.write(RESPONSE)


async def serve(port: int) -> None:
    """Listen until the process is stopped."""
    server = await asyncio.get_running_loop().create_server(Null, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
