"""A change in the other workers, asked for by the worker that carries it out: prepare, then commit or abort.

A message is a line of JSON over the Unix socket of a worker. The connection ends with either of the two processes, so
that neither waits for one that was killed.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from typing import Any, Self

from tuneport.errors import ModelNotLoaded
from tuneport.schema.base import Frozen

from .. import logs
from .state import ServingState, VersionKey

MAX_LINE_BYTES = 2**24
CONFIRM_TIMEOUT_S = 10.0
"""How long a worker may take to switch, which is a step of its event loop."""
Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Proposal(Frozen):
    """The first message: the state that is to come, and the version that has to be opened for it."""

    target: ServingState
    version: VersionKey | None = None


class Reply(Frozen):
    """An answer; without a problem the worker has done what it was asked for."""

    problem: str | None = None
    remedy: str = ""


class Decision(Frozen):
    """The second message."""

    commit: bool
    reason: str = ""
    """Why the change does not take place."""


def address_of(folder: Path, number: int) -> Path:
    """Return the address at which the worker of a number takes part in changes."""
    return folder / f"models-{number}.sock"


class Peers:
    """Connections to the workers beside this one, for one change."""

    def __init__(self, connections: dict[int, Connection]) -> None:
        """Take the connections by the workers' numbers."""
        self._connections = connections

    @classmethod
    @contextlib.asynccontextmanager
    async def connected(cls, folder: Path | None, own_number: int, count: int) -> AsyncIterator[Self]:
        """Connect to the other workers; one that does not listen is starting, and will read the state that counts.

        Raises ModelNotLoaded where a worker that listens cannot be reached.
        """
        connections: dict[int, Connection] = {}
        try:
            for number in range(1, count + 1):
                if folder is not None and number != own_number:
                    with contextlib.suppress(FileNotFoundError, ConnectionRefusedError):
                        connections[number] = await _connect(address_of(folder, number), number)
            yield cls(connections)
        finally:
            for _, writer in connections.values():
                writer.close()

    def prepare(self, proposal: Proposal) -> dict[int, Coroutine[Any, Any, None]]:
        """Ask each worker to open and prove what a change needs; awaiting raises ModelNotLoaded for one that fails."""
        return {number: self._ask(number, proposal) for number in self._connections}

    def check(self) -> None:
        """Raise ModelNotLoaded for a worker that has ended since it answered."""
        for number, (reader, _) in self._connections.items():
            if reader.at_eof():
                raise _ended(number)

    def abort(self, reason: str) -> None:
        """Tell each worker that the change does not take place."""
        for _, writer in self._connections.values():
            with contextlib.suppress(ConnectionError):
                send(writer, Decision(commit=False, reason=reason))

    async def commit(self) -> None:
        """Tell each worker to switch, and wait until all have, but not for long: the change is decided.

        A worker that does not answer switches as soon as its event loop runs again, and one that has ended is replaced
        by one that reads the new state.
        """
        asked = {
            number: asyncio.ensure_future(self._ask(number, Decision(commit=True))) for number in self._connections
        }
        if not asked:
            return
        await asyncio.wait(asked.values(), timeout=CONFIRM_TIMEOUT_S)
        for number, answer in asked.items():
            error = answer.exception() if answer.done() else f"no answer within {CONFIRM_TIMEOUT_S:g} s"
            if error:
                answer.cancel()
                logs.log("worker did not confirm", logging.WARNING, number=number, reason=str(error))

    async def _ask(self, number: int, message: Frozen) -> None:
        reader, writer = self._connections[number]
        line = b""
        with contextlib.suppress(ConnectionError):
            send(writer, message)
            line = await reader.readline()
        if not line.endswith(b"\n"):
            raise _ended(number)
        reply = Reply.model_validate_json(line)
        if reply.problem is not None:
            raise ModelNotLoaded(f"worker {number}: {reply.problem}", reply.remedy)


async def _connect(address: Path, number: int) -> Connection:
    """Connect to a worker; raises FileNotFoundError or ConnectionRefusedError where it does not listen."""
    try:
        return await asyncio.open_unix_connection(address, limit=MAX_LINE_BYTES)
    except (FileNotFoundError, ConnectionRefusedError):
        raise
    except OSError as error:  # such as too many open files
        raise ModelNotLoaded(f"worker {number} cannot be reached ({error})", "see the service's log") from error


def _ended(number: int) -> ModelNotLoaded:
    return ModelNotLoaded(f"worker {number} ended during the change", "try again when another one has started")


def send(writer: asyncio.StreamWriter, message: Frozen) -> None:
    """Send a message; raises ConnectionError where the other process has ended."""
    if writer.is_closing():  # uvloop raises RuntimeError then
        raise ConnectionResetError
    writer.write(message.model_dump_json().encode() + b"\n")
