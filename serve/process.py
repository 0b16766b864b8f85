"""Run a service in a process of its own: until it ends, or for the duration of a block.

It runs in an empty folder, where no module of the user's can hide an installed one.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import psutil

from tuneport import telemetry
from tuneport.errors import TuneportError

from .lifecycle import read_failed_start
from .settings import START_REPORT
from .supervision import COMMAND_PID

SUPERVISOR = "tuneport.stages.serve.supervisor"
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 20.0


def supervisor_command(*artifacts: Path, host: str, port: int) -> list[str]:
    """Return the command that serves artifacts' folders without BentoML, as `tuneport serve` does.

    Run it in a folder without Python files.
    """
    command = [sys.executable, "-P", "-m", SUPERVISOR, *(str(artifact.resolve()) for artifact in artifacts)]
    return [*command, "--host", host, "--port", str(port)]


def serve_environment() -> dict[str, str]:
    """Return this process's environment with defaults for a service: no telemetry, and no imports from its cwd."""
    environment = {**telemetry.OFF, "PYTHONSAFEPATH": "1", **os.environ}
    if home := environment.get("BENTOML_HOME"):
        environment["BENTOML_HOME"] = str(Path(home).expanduser().absolute())
    return environment


def free_port() -> int:
    """Return a free port of the loopback interface."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


HTTP, GRPC, METRICS = "HTTP", "gRPC", "the metrics"
REMEDIES = {
    HTTP: "free it, or choose another --host or --port", GRPC: "free it, or choose another --grpc-port (0 for none)",
    METRICS: "free it, or choose another --metrics-port",
}  # fmt: skip


def listen(host: str, port: int, backlog: int, *, protocol: str = HTTP) -> socket.socket:
    """Open a port; raises a TuneportError where that is impossible, such as on a port in use."""
    with contextlib.ExitStack() as on_failure:
        try:
            family, address = _resolve(host, port)
            listening = on_failure.enter_context(socket.socket(family, socket.SOCK_STREAM))
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port that was just closed is free
            listening.bind(address)
            listening.listen(backlog)
        except (OSError, UnicodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "no host has such a name"
            problem = f"{protocol} cannot listen on {host}:{port} ({reason})"
            raise TuneportError(problem, REMEDIES[protocol]) from error
        on_failure.pop_all()
    return listening


def _resolve(host: str, port: int) -> tuple[socket.AddressFamily, Any]:
    """Return the family and the address of a host's name, of IPv4 if it has one: not every machine has IPv6."""
    found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, *_, address = min(found, key=lambda each: each[0] != socket.AF_INET)
    return family, address


def check_ports(ports: Mapping[str, tuple[str, int | None]]) -> None:
    """Raise a TuneportError if a protocol cannot listen on its host and port, before the service starts.

    A port of 0 or None is not used. Two protocols on one port are an error, too.
    """
    with contextlib.ExitStack() as opened:
        for protocol, (host, port) in ports.items():
            if port:
                opened.enter_context(listen(host, port, 1, protocol=protocol))


def run_service(command: Sequence[str], environment: dict[str, str]) -> int:
    """Run a service until it ends or a signal comes; returns its exit code.

    `environment` is added to `serve_environment()`. Raises the TuneportError that prevented its start.
    """
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report"
        process = subprocess.Popen(
            command,
            cwd=folder,
            env={**serve_environment(), **environment, **_run_variables(report)},
            start_new_session=True,  # the terminal's signals go to this process, which stops the service
        )
        interrupts = 0
        while True:
            try:
                exit_code = process.wait()
                break
            except KeyboardInterrupt:  # of SIGTERM as well: the command line's handler raises it
                interrupts += 1
                _interrupt(process.pid, interrupts)
        if error := read_failed_start(report):
            raise error
        if exit_code < 0 and not interrupts:
            raise TuneportError(f"the service was ended by signal {-exit_code}", "see its log, and start it again")
        return 128 + signal.SIGINT if exit_code < 0 else exit_code


@contextlib.contextmanager
def running(
    command: Sequence[str],
    url: str,
    environment: dict[str, str] | None = None,
    ready_path: str = "/readyz",
    timeout_s: float = START_TIMEOUT_S,
) -> Iterator[int]:
    """Start a server, wait until `url` with `ready_path` is 200, yield its process id, and stop it at the end.

    Raises TuneportError with the end of the server's log if it exits or is not ready in time.
    """
    with tempfile.TemporaryFile() as log, tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report"
        process = subprocess.Popen(
            command,
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            cwd=folder,
            # No gRPC unless asked for: several servers cannot share its fixed port.
            env={**serve_environment(), "TUNEPORT_GRPC_PORT": "0", **_run_variables(report), **(environment or {})},
            start_new_session=True,  # Ctrl-C goes to this process, which stops the server
        )
        try:
            if not _ready(process, url, ready_path, report, timeout_s):
                if error := read_failed_start(report):
                    raise TuneportError(f"the server at {url} did not start: {error.problem}", error.remedy)
                tail = " | ".join(line.strip() for line in _read(log).splitlines()[-8:])
                end = f"did not become ready within {timeout_s:g} s" if process.poll() is None else "ended at its start"
                raise TuneportError(f"the server at {url} {end}: {tail or 'its log is empty'}", "fix what its log says")
            yield process.pid
        finally:
            _stop(process)


def _interrupt(supervisor: int, count: int) -> None:
    """Stop a service; the second time without its drain and its grace time, the third time at once."""
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(supervisor)
        workers = process.children(recursive=True)
        if count == 1:
            process.send_signal(signal.SIGTERM)
        for worker in workers if count > 1 else []:
            worker.send_signal(signal.SIGINT if count == 2 else signal.SIGKILL)
        if count > 2:
            process.kill()


def _run_variables(report: Path) -> dict[str, str]:
    """Return the variables by which a service ends with this process, and reports why it cannot start."""
    return {START_REPORT: str(report), COMMAND_PID: str(os.getpid())}


def _ready(process: "subprocess.Popen[bytes]", url: str, ready_path: str, report: Path, timeout_s: float) -> bool:
    import httpx  # here, because `tuneport serve` starts faster without it

    deadline = time.monotonic() + timeout_s
    verify = not url.startswith("https://127.0.0.1")  # a test's own certificate
    while time.monotonic() < deadline and process.poll() is None and not report.exists():
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{url}{ready_path}", timeout=2, verify=verify).status_code == httpx.codes.OK:
                return True
        time.sleep(0.05)
    return False


def _read(log: BinaryIO) -> str:
    """Read the whole log without moving the offset at which the server writes."""
    return os.pread(log.fileno(), os.fstat(log.fileno()).st_size, 0).decode(errors="replace")


def _stop(process: "subprocess.Popen[bytes]") -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # its own group: start_new_session made it the leader
        process.wait()
