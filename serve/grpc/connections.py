"""The TCP connections of the gRPC server: which have calls, and how those without end when the service stops.

`grpc.aio.Server.stop` ends a call that it has not begun with CANCELLED, as if its client had given up. To a client
whose connection is closed the call is UNAVAILABLE, and it connects again, to another server if there is one.
"""

import contextlib
import os
import socket
from collections import Counter
from collections.abc import Container
from typing import Any

import psutil


class ActiveCalls:
    """Counts the calls of each connection from their begin until their client has the status."""

    def __init__(self) -> None:
        """Begin without calls."""
        self._calls: Counter[int] = Counter()

    def begin(self, context: Any) -> None:
        """Count a call."""
        port = context.peer().rpartition(":")[2]
        client_port = int(port) if port.isdigit() else 0
        self._calls[client_port] += 1
        context.add_done_callback(lambda _: self._end(client_port))

    def _end(self, client_port: int) -> None:
        self._calls[client_port] -= 1
        if not self._calls[client_port]:
            del self._calls[client_port]

    @property
    def client_ports(self) -> Container[int]:
        """The clients' ports of the connections with calls; two clients may have the same port."""
        return self._calls.keys()

    def __bool__(self) -> bool:
        return bool(self._calls)


def close_connections(server_port: int, except_for: Container[int]) -> None:
    """Close the connections of this process to its port `server_port`, but not those of some clients' ports.

    What was written to them still reaches the client.
    """
    for each in psutil.Process().net_connections("tcp"):
        if each.laddr.port != server_port or not each.raddr or each.raddr.port in except_for:
            continue
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(each.fd)) as connection:
            # The descriptor may be another connection's by now.
            if (connection.getsockname()[1], connection.getpeername()[1]) == (server_port, each.raddr.port):
                connection.shutdown(socket.SHUT_RDWR)
