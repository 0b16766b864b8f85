"""How far batch scoring is."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from tuneport.cli.signals import raise_if_interrupted

if TYPE_CHECKING:
    from tuneport.scoring.pipeline import Progress

SECONDS_BETWEEN_LINES = 10.0
"""Where standard error is no terminal."""


@contextlib.contextmanager
def progress_rows(*, quiet: bool = False) -> Iterator[Callable[["Progress"], None]]:
    """Yield a function that shows how far batch scoring is: a bar on a terminal, a line every few seconds elsewhere.

    With `quiet` it shows nothing.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    started = shown = time.monotonic()
    first: int | None = None
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
    with Bar(*columns, console=console, disable=quiet or not console.is_terminal) as bar:
        task = bar.add_task("starting", total=None)

        def update(progress: "Progress") -> None:
            nonlocal shown, first
            raise_if_interrupted()
            now = time.monotonic()
            first = progress.done_rows if first is None else first
            speed = (progress.done_rows - first) / max(now - started, 1e-6)
            rejected = f", {progress.rejected} rejected" if progress.rejected else ""
            bar.update(
                task,
                completed=progress.done_rows,
                total=progress.total_rows,
                description=f"{speed:.0f} rows/s{rejected}",
            )
            if not quiet and not console.is_terminal and now - shown > SECONDS_BETWEEN_LINES:
                shown = now
                line = f"{progress.done_rows} of {progress.total_rows} rows{rejected}"
                print(f"[{now - started:5.1f} s] {line}", file=sys.stderr, flush=True)

        yield update
