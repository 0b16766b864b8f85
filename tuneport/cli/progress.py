"""Progress and warnings on stderr."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

from tuneport.cli.signals import raise_if_interrupted


@contextlib.contextmanager
def progress_steps(*, quiet: bool = False) -> Iterator[Callable[[str], None]]:
    """Yield a function that shows the current step: in one line of a terminal, in a line a step elsewhere.

    With `quiet` it shows nothing. It raises KeyboardInterrupt if a signal came since the last step and a library
    swallowed it.
    """
    if quiet:
        yield lambda _: raise_if_interrupted()
        return
    from rich.console import Console
    from rich.live import Live

    console = Console(stderr=True)
    started = time.monotonic()
    if not console.is_terminal:

        def print_step(name: str) -> None:
            raise_if_interrupted()
            print(f"[{time.monotonic() - started:5.1f} s] {name}", file=sys.stderr)

        yield print_step
        return
    # No thread that refreshes the line: a step of an export is a fork, in which what a thread had locked stays locked.
    with Live("starting", console=console, auto_refresh=False, transient=True) as live:

        def update_status(name: str) -> None:
            raise_if_interrupted()
            live.update(f"{name} ({time.monotonic() - started:.0f} s)", refresh=True)

        yield update_status


def print_warning(warning: str) -> None:
    """Print a warning on stderr."""
    print(f"warning: {warning}", file=sys.stderr, flush=True)
