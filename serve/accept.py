"""Spread connections evenly over the workers that share a listening socket.

Left to themselves, the first worker that wakes accepts all connections of a burst, and keeps them. Here each worker
publishes how many connections it has, in a file that they share, and leaves new ones to those that have fewer.
"""

import asyncio
import fcntl
import mmap
import os
import socket
import ssl
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

SLOT = struct.Struct("ii")
"""A worker's process id, and its connections."""
SLACK = 1
"""Connections that a worker may have above the one with the fewest."""
RETRY_S = 0.001
MAX_RETRIES = 20
"""How often a worker leaves a connection to the others before it takes it after all: they may be busy."""
ERROR_PAUSE_S = 1.0
"""Pause after accepting has failed, for example because the process has too many open files."""


class ConnectionCounts:
    """How many connections each worker has, in a shared file with a slot for each."""

    def __init__(self, file: Path, workers: int) -> None:
        """Take a slot that belongs to no living worker."""
        with file.open("a+b") as opened:
            fcntl.flock(opened, fcntl.LOCK_EX)
            opened.truncate(workers * SLOT.size)
            self._slots = mmap.mmap(opened.fileno(), workers * SLOT.size)
            self._offsets = range(0, workers * SLOT.size, SLOT.size)
            free = [offset for offset in self._offsets if not _is_alive(SLOT.unpack_from(self._slots, offset)[0])]
            self._own = free[0] if free else None
            self.publish(0)
            fcntl.flock(opened, fcntl.LOCK_UN)  # closing does not: the mapping has a copy of the descriptor

    def publish(self, connections: int) -> None:
        """Set this worker's connections."""
        if self._own is not None:
            SLOT.pack_into(self._slots, self._own, os.getpid(), connections)

    def fewest_of_others(self) -> int | None:
        """Return the connections of the other worker that has the fewest; None if there is no other one."""
        slots = [SLOT.unpack_from(self._slots, offset) for offset in self._offsets if offset != self._own]
        return min((connections for pid, connections in slots if _is_alive(pid)), default=None)


class Listener:
    """Accepts from a shared socket, in place of the event loop's own server."""

    def __init__(
        self,
        listening: socket.socket,
        protocol: Callable[[], asyncio.BaseProtocol],
        counts: ConnectionCounts,
        connections: Callable[[], int],
        tls: ssl.SSLContext | None,
        handshake_timeout_s: float | None,
    ) -> None:
        """Start to accept; `connections` counts this worker's."""
        self.sockets = [listening]
        self._protocol = protocol
        self._counts = counts
        self._connections = connections
        self._tls: dict[str, Any] = {"ssl": tls, "ssl_handshake_timeout": handshake_timeout_s} if tls else {}
        self._loop = asyncio.get_running_loop()
        self._opening: set[asyncio.Task[Any]] = set()
        self._retries = 0
        self._is_closed = False
        listening.setblocking(False)
        self._resume()

    def publish(self) -> None:
        """Tell the other workers how many connections this one has."""
        self._counts.publish(self._connections() + len(self._opening))

    def close(self) -> None:
        """Accept no more connections."""
        if not self._is_closed:
            self._is_closed = True
            self._loop.remove_reader(self.sockets[0])

    async def wait_closed(self) -> None:
        """Return at once: the caller itself waits for its connections."""

    def _resume(self) -> None:
        if not self._is_closed:
            self._loop.add_reader(self.sockets[0], self._accept)

    def _pause(self, seconds: float) -> None:
        self._loop.remove_reader(self.sockets[0])
        self._loop.call_later(seconds, self._resume)

    def _accept(self) -> None:
        """Accept connections as long as it is this worker's turn."""
        while not self._is_closed:
            fewest = self._counts.fewest_of_others()
            mine = self._connections() + len(self._opening)
            if fewest is not None and mine > fewest + SLACK and self._retries < MAX_RETRIES:
                self._retries += 1
                self._pause(RETRY_S)
                return
            try:
                accepted, _ = self.sockets[0].accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                self._retries = 0
                return
            except OSError:
                self._pause(ERROR_PAUSE_S)
                return
            accepted.setblocking(False)
            task = self._loop.create_task(self._open(accepted))
            self._opening.add(task)
            task.add_done_callback(self._opened)
            self.publish()

    async def _open(self, accepted: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._protocol, accepted, **self._tls)
        except Exception:  # of the handshake, whose client gets its alert
            accepted.close()

    def _opened(self, task: "asyncio.Task[Any]") -> None:
        self._opening.discard(task)
        self.publish()


def _is_alive(pid: int) -> bool:
    if pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
