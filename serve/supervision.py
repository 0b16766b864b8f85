"""Processes of one service: they end with their parent, and the supervisor ends when no worker can serve."""

import contextlib
import fcntl
import os
import shutil
import signal
import socket
import tempfile
import threading
import time
import zlib
from pathlib import Path

import psutil

COMMAND_PID = "TUNEPORT_COMMAND_PID"
"""Variable with the process that started the supervisor and with which it ends; set by `tuneport serve`."""
SUPERVISOR_PID = "TUNEPORT_SUPERVISOR_PID"
"""Variable with the workers' parent; the supervisor sets it."""
RUN_FOLDER = "TUNEPORT_RUN_FOLDER"
"""Variable with the folder in which each process that is ready has a file; the supervisor creates and removes it."""
WORKER, ENGINE = "worker", "engine"
"""The kinds of processes that a supervisor keeps."""
RUN_PREFIX = f"tuneport-{zlib.crc32(socket.gethostname().encode()):08x}-"
"""Of the folders of this host's services: on a shared file system a lock of another host may not be seen."""
POLL_S = 0.5
EXTRA_GRACE_S = 5.0


def prepare_supervisor() -> Path:
    """Create the folder that the processes share, and end this process with the command that started it."""
    remove_abandoned_folders()
    folder = _create_run_folder()
    os.environ |= {RUN_FOLDER: str(folder), SUPERVISOR_PID: str(os.getpid())}
    if command := os.environ.get(COMMAND_PID):
        end_with(int(command))
    return folder


def _create_run_folder() -> Path:
    """Create the folder and lock it for the life of this process: children do not inherit the descriptor."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=RUN_PREFIX))
        try:
            descriptor = os.open(folder, os.O_RDONLY)
        except FileNotFoundError:  # another start took it for an abandoned one
            continue
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if folder.is_dir():  # and was not removed before it was locked
            return folder
        os.close(descriptor)


def remove_abandoned_folders() -> None:
    """Remove the folders of supervisors that were killed together with the processes that remove such folders."""
    for folder in Path(tempfile.gettempdir()).glob(f"{RUN_PREFIX}*"):
        with contextlib.suppress(OSError):  # another user's, or removed meanwhile
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails where its supervisor lives
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(descriptor)


def prepare_worker(shutdown_grace_s: float) -> None:
    """End this worker with its supervisor."""
    if supervisor := os.environ.get(SUPERVISOR_PID):
        end_with(int(supervisor), shutdown_grace_s)


def is_orphan() -> bool:
    """Tell whether a process above this one has ended: then nothing waits until this worker is not ready."""
    pids = [int(pid) for name in (SUPERVISOR_PID, COMMAND_PID) if (pid := os.environ.get(name))]
    return not all(map(_is_alive, pids))


def _is_alive(pid: int) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


def end_with(parent: int, grace_s: float = 0.0) -> None:
    """Send SIGTERM to this process when its parent ends, and end it for certain some seconds after `grace_s`."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(POLL_S)
        os.kill(os.getpid(), signal.SIGTERM)
        if folder := run_folder():
            shutil.rmtree(folder, ignore_errors=True)
        time.sleep(grace_s + EXTRA_GRACE_S)
        os._exit(1)

    threading.Thread(target=watch, name="parent", daemon=True).start()


def run_folder() -> Path | None:
    """Return the folder that the processes of this service share; None where no supervisor has started this one."""
    folder = os.environ.get(RUN_FOLDER)
    return Path(folder) if folder else None


def report_ready(kind: str = WORKER) -> None:
    """Record that this worker, or engine, is ready."""
    if folder := run_folder():
        with contextlib.suppress(OSError):
            _record(folder, kind, os.getpid()).touch()


def report_not_ready() -> None:
    """Record that this worker cannot serve at present."""
    if folder := run_folder():
        _record(folder, WORKER, os.getpid()).unlink(missing_ok=True)


def was_ready(kind: str, pid: int) -> bool:
    """Tell whether a worker or an engine has recorded that it is ready."""
    folder = run_folder()
    return folder is not None and _record(folder, kind, pid).exists()


def was_any_ready(kind: str) -> bool:
    """Tell whether some process of a kind was ready since the service started."""
    folder = run_folder()
    return folder is not None and any(folder.glob(f"{kind}-*"))


def ready_processes() -> list[tuple[str, int]]:
    """List kind and process id of each worker and engine of this service that has recorded that it is ready."""
    folder, supervisor = run_folder(), os.environ.get(SUPERVISOR_PID)
    if folder is None or supervisor is None:
        return []
    found = []
    for kind in (WORKER, ENGINE):
        for record in folder.glob(f"{kind}-*"):
            pid = int(record.name.rpartition("-")[2])
            with contextlib.suppress(psutil.Error):
                if psutil.Process(pid).ppid() == int(supervisor):  # not another one's that has its number now
                    found.append((kind, pid))
    return found


def _record(folder: Path, kind: str, pid: int) -> Path:
    return folder / f"{kind}-{pid}"


def end_supervisor_unless_others_serve() -> None:
    """End the supervisor where no other worker is ready: it would start this one again for ever."""
    supervisor = _supervisor()
    if supervisor is None or _are_others_ready(supervisor):
        return
    with contextlib.suppress(psutil.Error):
        supervisor.terminate()


def _supervisor() -> psutil.Process | None:
    """Return the supervisor above this worker."""
    if os.environ.get(SUPERVISOR_PID) == str(os.getppid()):
        with contextlib.suppress(psutil.Error):
            return psutil.Process(os.getppid())
    return None


def _are_others_ready(supervisor: psutil.Process) -> bool:
    if run_folder() is None:
        return False
    with contextlib.suppress(psutil.Error, OSError):
        alive = {child.pid for child in supervisor.children() if child.status() != psutil.STATUS_ZOMBIE}
        return any(was_ready(WORKER, pid) for pid in alive - {os.getpid()})
    return False
