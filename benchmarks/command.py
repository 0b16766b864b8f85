"""What the command lines of the benchmarks have in common."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tuneport.errors import TuneportError


@contextmanager
def serving_command() -> Iterator[None]:
    """Run a command that starts servers: SIGTERM stops them, and a TuneportError is one line and exit code 1."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        yield
    except TuneportError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(1)


def print_progress(line: str) -> None:
    """Write a line of progress to standard error."""
    sys.stderr.write(f"{line}\n")
