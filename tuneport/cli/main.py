"""The command line's entry point: exit codes, signals, and one line on stderr for an error.

Exit codes: 0 done; 1 an error of the exception tree; 2 wrong usage; 130 interrupted.

The commands take half a second to import. They are imported when the handlers of signals are there, so this module
imports next to nothing.
"""

import os
import sys
from typing import NoReturn

from tuneport.cli.signals import INTERRUPTED, exit_on_signals, install_handlers, was_interrupted
from tuneport.errors import TuneportError

STANDARD_STREAMS = (0, 1, 2)


def main() -> NoReturn:
    """Run a command and exit."""
    exit_on_signals()
    open_closed_streams()
    _quiet_libraries()
    from tuneport.cli.app import app

    install_handlers()
    try:
        app(prog_name="tuneport", standalone_mode=True)
    except SystemExit as end:
        # Typer turns a KeyboardInterrupt into an exit without a message.
        cause = end.__context__ and end.__context__.__cause__
        if isinstance(cause, KeyboardInterrupt):
            print(str(cause) or INTERRUPTED, file=sys.stderr)
        raise
    except (KeyboardInterrupt, Exception) as error:
        # A library that was interrupted may have raised another error instead.
        if was_interrupted() or isinstance(error, KeyboardInterrupt):
            print(INTERRUPTED, file=sys.stderr)
            sys.exit(130)
        if not isinstance(error, TuneportError):
            raise
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(1)
    finally:
        exit_on_signals()
    sys.exit(0)


def open_closed_streams() -> None:
    """Open those of the standard streams that are closed on the null device.

    A file of the command's own would get their descriptors, and what libraries in C print would be written into it.
    """
    for descriptor in STANDARD_STREAMS:
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free descriptor, which is this one
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w", closefd=False)


def _quiet_libraries() -> None:
    """Lower the verbosity of libraries, unless the user has set it."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
