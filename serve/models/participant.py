"""A worker's part in changes that another worker carries out; see `peers.py`."""

import asyncio
import contextlib
import logging
from pathlib import Path

from tuneport.errors import TuneportError

from .. import logs
from .local import LocalModels, Opened, explain
from .peers import MAX_LINE_BYTES, Decision, Proposal, Reply, send
from .shared_state import SharedState


class Participant:
    """Listens for changes, one at a time."""

    def __init__(self, local: LocalModels, shared: SharedState) -> None:
        """Keep what a change needs; nobody is listened to yet."""
        self._local = local
        self._shared = shared
        self._lock = asyncio.Lock()
        self._server: asyncio.AbstractServer | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, address: Path) -> None:
        """Listen at the address of this worker's number; raises TuneportError where that is impossible."""
        try:
            address.unlink(missing_ok=True)  # of the worker whose place this one takes
            self._server = await asyncio.start_unix_server(self._connected, address, limit=MAX_LINE_BYTES)
        except OSError as error:
            problem = f"the worker cannot listen on {address} ({error})"
            raise TuneportError(problem, "set TMPDIR to a folder with a shorter path that can be written") from error

    def stop(self) -> None:
        """Take part in no change any more; one that is under way ends for all workers."""
        if self._server:
            self._server.close()
        for task in self._tasks:
            task.cancel()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            with contextlib.suppress(ConnectionError, asyncio.CancelledError):
                async with self._lock:
                    await self._take_part(reader, writer)
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _take_part(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = await reader.readline()
        if not line.endswith(b"\n"):
            return
        try:
            proposal = Proposal.model_validate_json(line)
        except ValueError:  # pydantic's error is one
            logs.log("no proposal", logging.WARNING)
            return
        deciding = asyncio.ensure_future(self._decision(reader, proposal))
        await asyncio.sleep(0)  # it may have come already, while this proposal waited for another change
        if deciding.done():
            self._local.remember_failure(proposal.version, deciding.result().reason)
            return
        opening = self._local.begin(proposal.target, proposal.version)
        await asyncio.wait((opening, deciding), return_when=asyncio.FIRST_COMPLETED)
        if not deciding.done():
            with contextlib.suppress(ConnectionError):
                send(writer, _reply(opening))
        decision = await deciding
        if decision.commit:
            self._local.commit(proposal.target, await opening)
            send(writer, Reply())
        else:
            self._local.abort(opening, proposal.version, decision.reason)

    async def _decision(self, reader: asyncio.StreamReader, proposal: Proposal) -> Decision:
        """Wait for the decision; if the worker that decides has ended, the state that it has written says it."""
        line = b""
        with contextlib.suppress(ConnectionError):
            line = await reader.readline()
        if line.endswith(b"\n"):
            return Decision.model_validate_json(line)
        state = self._shared.read()
        is_decided = state is not None and state.revision >= proposal.target.revision
        return Decision(commit=is_decided, reason="the worker that carried out the change ended")


def _reply(opening: "asyncio.Future[Opened]") -> Reply:
    """Say whether all was opened and proven, and why not."""
    error = opening.exception()
    if error is None:
        return Reply()
    problem, remedy = explain(error)
    return Reply(problem=problem, remedy=remedy)
