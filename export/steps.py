"""Run each step of an export in a forked process, so that its memory ends with it.

Forks share what the export has imported, several hundred MiB, and a step needs no arguments: it has all that the export
had read before. A fork has none of the threads of its parent, so that the parent must not have used torch or an engine;
only the command line can know that.
"""

import contextlib
import ctypes
import gc
import multiprocessing
import os
import pickle
import signal
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from tuneport.errors import EngineError

END_SECONDS = 10.0
"""For a step that is interrupted to remove its files."""
PR_SET_PDEATHSIG = 1
INTERRUPTED = 130
"""Exit code of a step that got the signal that ends the export."""
Result = TypeVar("Result")


class Steps:
    """Runs the steps of one export: here, or each in a process of its own."""

    def __init__(self, progress: Callable[[str], object] = lambda _: None, *, are_apart: bool = False) -> None:
        """`are_apart`: fork for each step; only in a process that has not used torch or an engine."""
        self._progress = progress
        self._are_apart = are_apart
        self._to_parent: Connection | None = None
        """Of a step that runs in a process of its own."""

    def progress(self, line: str) -> None:
        """Report progress, also from within a step."""
        if self._to_parent:
            self._to_parent.send(("progress", line))
        else:
            self._progress(line)

    def run(self, step: Callable[[], Result]) -> Result:
        """Return what a step returns, and raise what it raises; apart, both are pickled.

        A step within a step runs in its process. Raises EngineError if the process is killed.
        """
        if not self._are_apart or self._to_parent:
            return step()
        gc.freeze()  # a collection in the fork would copy the pages of all objects
        receiver, sender = multiprocessing.Pipe(duplex=False)
        process = multiprocessing.get_context("fork").Process(target=self._run_apart, args=(step, sender), daemon=True)
        process.start()
        gc.unfreeze()
        sender.close()
        try:
            while True:
                kind, value = receiver.recv()
                if kind == "progress":
                    self._progress(value)
                elif kind == "raised":
                    raise value
                else:
                    return value
        except EOFError:
            process.join()
            if process.exitcode == INTERRUPTED:
                raise KeyboardInterrupt from None
            problem = f"a step of the export ended with exit code {process.exitcode}"
            raise EngineError(problem, "free some memory if it ran out, which is what -9 says") from None
        finally:
            _end(process)

    def _run_apart(self, step: Callable[[], object], to_parent: Connection) -> None:
        """Run in the forked process."""
        with contextlib.suppress(AttributeError, OSError):
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # a parent that is killed ends nothing itself
        self._to_parent = to_parent
        try:
            answer: tuple[str, Any] = ("returned", step())
        except Exception as error:
            answer = ("raised", _portable(error))
        except BaseException:
            os._exit(INTERRUPTED)  # the parent was interrupted, too, and says so
        to_parent.send(answer)
        to_parent.close()
        os._exit(0)  # libraries that own threads may hang in their finalizers


HERE = Steps()
"""Runs steps in this process."""


def _portable(error: Exception) -> Exception:
    """Return an exception that another process can raise, with its traceback as a note."""
    error.add_note("".join(traceback.format_exception(error)))
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # of its class, whose constructor may take other arguments than pickle gives it
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def _end(process: multiprocessing.process.BaseProcess) -> None:
    """End a step: one that has not ended, because the export is interrupted, first removes its files."""
    if process.is_alive() and process.pid:
        process.join(0.5)
        process.terminate()
        process.join(END_SECONDS)
        process.kill()
    process.join()
