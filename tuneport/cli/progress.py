"""Progress and warnings on stderr."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

from tuneport.cli.signals import raise_if_interrupted


@contextlib.contextmanager
def progress_steps(*, quiet: bool = False) -> Iterator[Callable[[str], None]]:
    """Yield a function that shows the current step: a spinner on a terminal, one line a step elsewhere.

    With `quiet` it shows nothing. It raises KeyboardInterrupt if a signal came since the last step and a library
    swallowed it.
    """
    if quiet:
        yield lambda _: raise_if_interrupted()
        return
    from rich.console import Console

    console = Console(stderr=True)
    started = time.monotonic()
    if not console.is_terminal:

        def print_step(name: str) -> None:
            raise_if_interrupted()
            print(f"[{time.monotonic() - started:5.1f} s] {name}", file=sys.stderr)

        yield print_step
        return
    with console.status("starting") as status:

        def update_status(name: str) -> None:
            raise_if_interrupted()
            status.update(f"{name} ({time.monotonic() - started:.0f} s)")

        yield update_status


def print_warning(warning: str) -> None:
    """Print a warning on stderr."""
    print(f"warning: {warning}", file=sys.stderr, flush=True)
