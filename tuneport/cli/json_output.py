"""Standard output for scripts: one JSON value, and nothing of what libraries print."""

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

STDOUT, STDERR = 1, 2


@contextlib.contextmanager
def json_output(*, enabled: bool) -> Iterator[Callable[[Any], None]]:
    """Yield a function that prints a value as JSON; what else is written to stdout in the block goes to stderr.

    That includes what libraries in C and processes that are started in the block write. Unless `enabled`, nothing is
    changed.
    """
    if not enabled:
        yield print_json
        return
    printed: list[Any] = []
    with _stdout_to_stderr(), contextlib.redirect_stdout(sys.stderr):
        yield printed.append
    for value in printed:
        print_json(value)


def print_json(value: Any) -> None:
    """Print a value as one line of JSON."""
    print(json.dumps(value, ensure_ascii=False, default=str), flush=True)


@contextlib.contextmanager
def _stdout_to_stderr() -> Iterator[None]:
    """Let the descriptor of stdout be that of stderr."""
    sys.stdout.flush()
    kept = os.dup(STDOUT)
    os.dup2(STDERR, STDOUT)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, STDOUT)
        os.close(kept)
