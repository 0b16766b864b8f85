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
SIGNALS = (signal.SIGINT, signal.SIGTERM)
"""Those that end an export."""
INTERRUPTED = 130
"""Exit code of a step that got the signal that ends the export."""
Result = TypeVar("Result")


class Steps:
    """Runs the steps of one export: here, or each in a process of its own."""

    def __init__(self, progress: Callable[[str], object] = lambda _: None, *, are_apart: bool = False) -> None:
        """`are_apart`: fork for each step; only in a process that has not used torch or an engine."""
        self._progress = progress
        self._are_apart = are_apart
        if are_apart:  # forks would wait for the threads of tokenizers for ever
            os.environ["TOKENIZERS_PARALLELISM"] = "false"
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
        receiver, sender = multiprocessing.Pipe(duplex=False)
        process = multiprocessing.get_context("fork").Process(target=self._run_apart, args=(step, sender))
        try:
            gc.freeze()  # a collection in the fork would copy the pages of all objects
            _start(process)
            gc.unfreeze()
            sender.close()
            while True:
                kind, value = _receive(receiver, process)
                if kind == "progress":
                    self._progress(value)
                elif kind == "raised":
                    raise value
                else:
                    return value
        finally:
            _end(process)

    def _run_apart(self, step: Callable[[], object], to_parent: Connection) -> None:
        """Run in the forked process."""
        with contextlib.suppress(AttributeError, OSError):
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # a parent that is killed ends nothing itself
        self._to_parent = to_parent
        try:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
            answer: tuple[str, Any] = ("returned", step())
        except Exception as error:
            answer = ("raised", _portable(error))
        except BaseException:
            os._exit(INTERRUPTED)  # the parent was interrupted, too, and says so
        try:
            to_parent.send(answer)
        except Exception as error:  # a result that cannot be pickled
            to_parent.send(("raised", _portable(error)))
        to_parent.close()
        os._exit(0)  # libraries that own threads may hang in their finalizers


def _start(process: multiprocessing.process.BaseProcess) -> None:
    """Fork with signals held back, also in the fork: Python prints and forgets what is raised in callbacks of forks."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


HERE = Steps()
"""Runs steps in this process."""


def _receive(receiver: Connection, process: multiprocessing.process.BaseProcess) -> tuple[str, Any]:
    """Return what a step sends; raises KeyboardInterrupt or EngineError where it has ended instead."""
    try:
        kind, value = receiver.recv()
    except (EOFError, OSError):
        process.join()
        if process.exitcode == INTERRUPTED:
            raise KeyboardInterrupt from None
        problem = f"a step of the export ended with exit code {process.exitcode}"
        remedy = "free some memory: the system ended it" if process.exitcode == -signal.SIGKILL else "see its output"
        raise EngineError(problem, remedy) from None
    return kind, value


def _portable(error: Exception) -> Exception:
    """Return an exception that another process can raise, with its traceback as a note."""
    note = "".join(traceback.format_exception(error))
    try:
        portable: Exception = pickle.loads(pickle.dumps(error))
    except Exception:  # of its class, whose constructor may take other arguments than pickle gives it
        portable = RuntimeError(f"{type(error).__name__}: {error}")
    portable.add_note(note)
    return portable


def _end(process: multiprocessing.process.BaseProcess) -> None:
    """End a step: one that has not ended, because the export is interrupted, first removes its files."""
    if process.pid is None:  # it was not started
        return
    if process.is_alive():
        process.join(0.5)
        process.terminate()
        process.join(END_SECONDS)
        process.kill()
    process.join()
