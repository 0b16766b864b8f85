"""The command line, run in this process."""

import contextlib
import io
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from unittest import mock


@dataclass(frozen=True)
class Answer:
    """How a command ended."""

    code: int
    out: str
    err: str


def tuneport(*arguments: str | Path, stdin: bytes = b"") -> Answer:
    """Run the command line as the installed script does."""
    from tuneport.cli.main import main

    out, err = io.StringIO(), io.StringIO()
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    for number in before:  # a test run in the background may have been started with SIGINT ignored
        signal.signal(number, signal.SIG_DFL)
    try:
        with (
            mock.patch.object(sys, "argv", ["tuneport", *map(str, arguments)]),
            mock.patch.object(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8")),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            try:
                main()
            except SystemExit as end:
                code = end.code if isinstance(end.code, int) else 1
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return Answer(code, out.getvalue(), err.getvalue())


def without_progress(error: str) -> str:
    """Remove the steps that a long command prints to stderr before its error."""
    return "".join(line for line in error.splitlines(keepends=True) if not line.startswith("["))


def assert_one_line(error: str, *words: str) -> None:
    """Check that stderr is a single error line with these words."""
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    for word in words:
        assert word in error
