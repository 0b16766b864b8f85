"""Packets over a Unix socket in an event loop; a packet may carry descriptors of files."""

import array
import asyncio
import contextlib
import os
import socket
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

from .messages import PACKET_BYTES

MAX_DESCRIPTORS = 1
READS_AT_ONCE = 16
"""Packets that are read before other work of the event loop."""


def address_of(folder: Path, engine: int) -> Path:
    """Return where the engine process of a number, from 1, listens in the service's folder."""
    return folder / f"socket-{engine}"  # `engine-` and a process id say that an engine is ready


def listen(address: Path, backlog: int) -> socket.socket:
    """Open the socket of an engine process. Raises OSError, for example for an address of over 107 bytes."""
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        listening.bind(str(address))
        listening.listen(backlog)
    except OSError:
        listening.close()
        raise
    return listening


def receive(connection: socket.socket) -> tuple[bytes, list[int]]:
    """Return a packet and its descriptors; an empty packet when the other process has ended."""
    try:
        space = socket.CMSG_SPACE(MAX_DESCRIPTORS * array.array("i").itemsize)
        packet, ancillary, _, _ = connection.recvmsg(PACKET_BYTES, space, socket.MSG_CMSG_CLOEXEC)
    except ConnectionError:
        return b"", []
    descriptors = array.array("i")
    for level, kind, content in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            descriptors.frombytes(content[: len(content) - len(content) % descriptors.itemsize])
    return packet, descriptors.tolist()


def send(connection: socket.socket, packet: bytes, descriptors: Sequence[int] = ()) -> None:
    """Send a packet, and then close the descriptors that go with it."""
    if descriptors:
        socket.send_fds(connection, [packet], list(descriptors))
        _close(descriptors)
    else:
        connection.send(packet)


class Channel:
    """One connection, in the event loop that runs."""

    def __init__(
        self,
        connection: socket.socket,
        on_packet: Callable[[bytes, list[int]], object],
        on_close: Callable[[], object],
    ) -> None:
        """Read packets from now on; `on_close` is called once, when the other process has ended."""
        self._socket = connection
        self._on_packet = on_packet
        self._on_close = on_close
        self._loop = asyncio.get_running_loop()
        self._unsent: deque[tuple[bytes, Sequence[int]]] = deque()
        self._is_closed = False
        connection.setblocking(False)
        self._loop.add_reader(connection, self._read)

    def send(self, packet: bytes, descriptors: Sequence[int] = ()) -> None:
        """Send a packet, as soon as the other process has room for it, and close the descriptors."""
        if self._is_closed:
            _close(descriptors)
            return
        if not self._unsent and self._try_to_send(packet, descriptors):
            return
        self._unsent.append((packet, descriptors))
        if len(self._unsent) == 1:
            self._loop.add_writer(self._socket, self._write)

    def close(self) -> None:
        """Close the connection; nothing is called any more."""
        if self._is_closed:
            return
        self._is_closed = True
        self._loop.remove_reader(self._socket)
        self._loop.remove_writer(self._socket)
        for _, descriptors in self._unsent:
            _close(descriptors)
        self._unsent.clear()
        self._socket.close()

    def _read(self) -> None:
        for _ in range(READS_AT_ONCE):
            try:
                packet, descriptors = receive(self._socket)
            except (BlockingIOError, InterruptedError):
                return
            if not packet:
                self.close()
                self._on_close()
                return
            self._on_packet(packet, descriptors)
            if self._is_closed:
                return

    def _write(self) -> None:
        while self._unsent and self._try_to_send(*self._unsent[0]):
            self._unsent.popleft()
        if not self._unsent:
            self._loop.remove_writer(self._socket)

    def _try_to_send(self, packet: bytes, descriptors: Sequence[int]) -> bool:
        """Return whether the packet needs no further try; where the other process has ended, reading says so."""
        try:
            send(self._socket, packet, descriptors)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:
            _close(descriptors)
        return True


def _close(descriptors: Sequence[int]) -> None:
    for descriptor in descriptors:
        with contextlib.suppress(OSError):
            os.close(descriptor)
