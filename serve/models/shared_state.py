"""What the workers of a service share of its models, in the folder of its processes: the state, and who changes it."""

import asyncio
import contextlib
import fcntl
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from tuneport.errors import ModelNotLoaded

from .state import ServingState

STATE, LOCK = "models.json", "models.lock"
RETRY_S = 0.1


class SharedState:
    """The state that was decided last, which a worker that starts has to come up with.

    A state counts from the moment at which its file has its name. The lock ends with the process that holds it.
    """

    def __init__(self, folder: Path | None) -> None:
        """Use the folder of the service's processes; None for a process that has no others beside it."""
        self.folder = folder
        self._is_locked = False

    def read(self) -> ServingState | None:
        """Return the state that was written last, None before the first one."""
        with contextlib.suppress(FileNotFoundError):
            if self.folder:
                return ServingState.model_validate_json((self.folder / STATE).read_bytes())
        return None

    def write(self, state: ServingState) -> None:
        """Decide that a state counts; raises OSError, and then the one before counts."""
        if self.folder:
            path = self.folder / f"{STATE}.new"
            path.write_text(state.model_dump_json(), encoding="utf-8")
            path.replace(self.folder / STATE)

    def check_current(self, state: ServingState) -> None:
        """Raise ModelNotLoaded where another state was decided than the one that this worker is in."""
        decided = self.read()
        if decided and decided.revision != state.revision:
            raise _busy()

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        """Let no other change begin, in any worker; raises ModelNotLoaded while there is another one."""
        if self._is_locked:
            raise _busy()
        self._is_locked = True
        try:
            with _locked(self.folder / LOCK) if self.folder else contextlib.nullcontext():
                yield
        finally:
            self._is_locked = False

    @contextlib.asynccontextmanager
    async def exclusive_when_free(self) -> AsyncIterator[None]:
        """As `exclusive`, but wait for the end of another change."""
        with contextlib.ExitStack() as stack:
            while True:
                try:
                    stack.enter_context(self.exclusive())
                    break
                except ModelNotLoaded:
                    await asyncio.sleep(RETRY_S)
            yield


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise _busy() from error
        yield
    finally:
        os.close(descriptor)


def _busy() -> ModelNotLoaded:
    problem = "another change of the models is under way, or a worker is starting or has not switched yet"
    return ModelNotLoaded(problem, "try again when it has ended", code="change_under_way")
