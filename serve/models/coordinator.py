"""Carry a change out in all workers of the service, or in none.

First every worker opens and proves what the change needs, and nothing else changes. When all have done so, the new
state is written to the folder that the workers share. That decides: a worker that starts from then on, or that loses
the connection, takes it from there, and every other one is told to switch, which is one step of its event loop.
Whatever fails before leaves everything as it was.
"""

import asyncio

from tuneport.errors import ModelNotLoaded, ServiceStopping

from .. import logs
from ..settings import Settings
from .local import LocalModels, Opened, explain
from .participant import Participant
from .peers import Peers, Proposal, address_of
from .shared_state import SharedState
from .state import ServingState, VersionKey


class Coordinator:
    """The changes that this worker carries out, and its part in those of others."""

    def __init__(self, local: LocalModels, shared: SharedState, settings: Settings, number: int) -> None:
        """Take what this worker has open, what all workers share, and the number of this one."""
        self._local = local
        self._shared = shared
        self._settings = settings
        self._number = number
        self._participant = Participant(local, shared)
        self._preparing: asyncio.Timeout | None = None
        self._is_stopping = False

    async def join(self) -> None:
        """Take part in changes from now on, after what has changed since this worker began to start."""
        folder = self._shared.folder
        if folder is None or self._settings.worker_count == 1 or not self._settings.admin_keys:
            return
        async with self._shared.exclusive_when_free():
            state = self._shared.read()
            if state and state != self._local.state:
                self._local.commit(state, await asyncio.to_thread(self._local.open_missing, state))
            await self._participant.start(address_of(folder, self._number))

    def leave(self) -> None:
        """Take part in no change any more; one that is not decided ends, with nothing changed."""
        self._is_stopping = True
        self._participant.stop()
        if self._preparing:
            self._preparing.reschedule(asyncio.get_running_loop().time())

    async def carry_out(self, target: ServingState, version: VersionKey | None = None) -> None:
        """Bring all workers into a state, `version` being what is new in it; raises ModelNotLoaded if that fails."""
        async with Peers.connected(self._shared.folder, self._number, self._settings.worker_count) as peers:
            opening = self._local.begin(target, version)
            try:
                await self._prepare(opening, peers, Proposal(target=target, version=version))
                self._shared.write(target)
            except Exception as error:
                problem, remedy = explain(error)
                self._local.abort(opening, version, problem)
                peers.abort(problem)
                self._remember_failure()
                if isinstance(error, ServiceStopping):
                    raise
                what = f"{version[0]} {version[1]} was not loaded: " if version else ""
                raise ModelNotLoaded(f"{what}{problem}", remedy) from error
            confirmed = asyncio.ensure_future(peers.commit())
            self._local.commit(target, opening.result())
            await confirmed

    async def _prepare(self, opening: "asyncio.Future[Opened]", peers: Peers, proposal: Proposal) -> None:
        """Wait until every worker has opened and proven what a change needs; raises the first error."""
        limit_s = self._settings.load_timeout_s
        if self._is_stopping:
            raise ServiceStopping
        asked = {self._number: self._opened_here(opening), **peers.prepare(proposal)}
        answers = {number: asyncio.ensure_future(each) for number, each in sorted(asked.items())}
        try:
            async with asyncio.timeout(limit_s) as self._preparing:
                await asyncio.gather(*answers.values())
            peers.check()
        except TimeoutError:
            if self._is_stopping:
                raise ServiceStopping from None
            late = ", ".join(str(number) for number, answer in answers.items() if answer.cancelled())
            by = f" by worker {late}" if self._settings.worker_count > 1 else ""
            problem = f"it was not opened and proven within {limit_s:g} s{by}"
            raise ModelNotLoaded(problem, "raise TUNEPORT_LOAD_TIMEOUT_S, or see the service's log") from None
        finally:
            self._preparing = None

    async def _opened_here(self, opening: "asyncio.Future[Opened]") -> None:
        try:
            await asyncio.shield(opening)
        except Exception as error:
            problem, remedy = explain(error)
            where = f"worker {self._number}: " if self._settings.worker_count > 1 else ""
            raise ModelNotLoaded(f"{where}{problem}", remedy) from error

    def _remember_failure(self) -> None:
        """Let a worker that starts later know the reason, too, as far as the disk allows."""
        try:
            self._shared.write(self._local.state)
        except OSError as error:
            logs.log("state not written", reason=str(error))
