"""A worker's part in changes that another worker carries out; see `peers.py`."""

import asyncio
import contextlib
from pathlib import Path

from tuneport.errors import TuneportError

from .local import LocalModels, explain
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
        proposal = Proposal.model_validate_json(line)
        opening = self._local.begin(proposal.target, proposal.version)
        try:
            await asyncio.shield(opening)
            reply = Reply()
        except Exception as error:
            problem, remedy = explain(error)
            reply = Reply(problem=problem, remedy=remedy)
        with contextlib.suppress(ConnectionError):
            send(writer, reply)
        decision = await self._decision(reader, proposal)
        if not decision.commit:
            self._local.abort(opening, proposal.version, decision.reason)
            return
        self._local.commit(proposal.target, opening.result())
        send(writer, Reply())

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
