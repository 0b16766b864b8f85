"""A server that does no work, to measure the load generator itself.

python -m tuneport.stages.benchmarks.load.null_server PORT
"""

import asyncio
import sys
from typing import cast

import uvloop

BODY = b'{"predictions":[{"label":"none","score":0.5}],"model":{"name":"null","version":"0","variant":"null"}}'
RESPONSE = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (len(BODY), BODY)
CONTENT_LENGTH = b"Content-Length: "
"""As the load generator's HTTP client writes it; header names in other cases are not recognized."""


class NullServer(asyncio.Protocol):
    """Answers every complete request with the same bytes, those for /readyz too."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport (asyncio)."""
        self._transport = cast(asyncio.WriteTransport, transport)  # uvloop's class is not declared as one
        self._received = b""

    def data_received(self, data: bytes) -> None:
        """Respond once the request's body is complete (asyncio)."""
        self._received += data
        head, separator, body = self._received.partition(b"\r\n\r\n")
        size = int(head.partition(CONTENT_LENGTH)[2].partition(b"\r")[0] or 0)
        if separator and len(body) >= size:
            self._received = b""
            self._transport.write(RESPONSE)


async def serve(port: int) -> None:
    """Listen on the loopback interface until the process is stopped."""
    server = await asyncio.get_running_loop().create_server(NullServer, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
