"""The TCP connections of the gRPC server: which have calls, and how those without end when the service stops.

`grpc.aio.Server.stop` ends a call that it has not begun with CANCELLED, as if its client had given up. To a client
whose connection is closed the call is UNAVAILABLE, and it connects again, to another server if there is one.
"""

import contextlib
import os
import socket
from collections import Counter
from collections.abc import Collection, Container
from typing import Any

import psutil


class ActiveCalls:
    """Counts the calls of each connection from their begin until their client has the status."""

    def __init__(self) -> None:
        """Begin without calls."""
        self._calls: Counter[int] = Counter()
        self._accepted: Counter[int] = Counter()

    def begin(self, context: Any, *, is_accepted: bool) -> None:
        """Count a call, which is either answered or refused because the service stops."""
        port = context.peer().rpartition(":")[2]
        client_port = int(port) if port.isdigit() else 0
        counters = (self._calls, self._accepted) if is_accepted else (self._calls,)
        for counter in counters:
            counter[client_port] += 1
        context.add_done_callback(lambda _: self._end(counters, client_port))

    def _end(self, counters: tuple[Counter[int], ...], client_port: int) -> None:
        for counter in counters:
            counter[client_port] -= 1
            if not counter[client_port]:
                del counter[client_port]

    @property
    def client_ports(self) -> Collection[int]:
        """The clients' ports of the connections with calls; two clients may have the same port."""
        return self._calls.keys()

    @property
    def accepted_ports(self) -> Collection[int]:
        """Those of the connections with calls that are answered."""
        return self._accepted.keys()


def close_connections(server_port: int, except_for: Container[int]) -> None:
    """Close the connections of this process to its port `server_port`, but not those of some clients' ports.

    Responses that were handed to the system usually still reach the client. Where the connections cannot be listed,
    none is closed.
    """
    try:
        connections = psutil.Process().net_connections("tcp")
    except (psutil.Error, OSError, RuntimeError):  # a container may hide /proc
        return
    for each in connections:
        if each.laddr.port == server_port and each.raddr and each.raddr.port not in except_for:
            with contextlib.suppress(OSError):
                _close(each.fd, server_port, each.raddr.port)


def _close(descriptor: int, server_port: int, client_port: int) -> None:
    """Shut a connection down, unless its descriptor is another one's by now."""
    copy = os.dup(descriptor)
    try:
        connection = socket.socket(fileno=copy)
    except OSError:
        os.close(copy)
        raise
    with connection:
        if (connection.getsockname()[1], connection.getpeername()[1]) == (server_port, client_port):
            connection.shutdown(socket.SHUT_RDWR)
