"""What only observes requests, such as metrics and traces, must not fail one."""

import logging
from types import TracebackType

from . import logs

_logged: set[tuple[str, type[BaseException]]] = set()


class Observing:
    """A block whose exceptions fail no request; the first one of each class is logged.

    A class and no generator, because several of these blocks are on the way of each short request.
    """

    __slots__ = ("_what",)

    def __init__(self, what: str) -> None:
        """Name what the block observes, for the log."""
        self._what = what

    def __enter__(self) -> None:
        """Begin."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        """Suppress an exception, but for those that end the process or cancel the request."""
        if kind is None or not issubclass(kind, Exception):
            return False
        if (self._what, kind) not in _logged:
            _logged.add((self._what, kind))
            logs.log("not observed", logging.WARNING, exc_info=error, what=self._what)
        return True
