"""The processes of the benchmark: starting a server, running the load generator, reading CPU time and memory."""

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from tuneport.errors import TuneportError
from tuneport.stages.serve.process import free_port, running

from ..load.plan import LoadPlan, LoadResult
from .targets import HOST, EndpointTarget

LOAD_GENERATOR = (sys.executable, "-P", "-m", "tuneport.stages.benchmarks.load.main")
"""-P keeps modules of the working directory from hiding installed ones."""
WARM_UP_S = 1.0
CLOCK_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
MAX_ERROR_WORDS = 30


@dataclass(frozen=True)
class ResourceUsage:
    """Resources of a server's processes."""

    cpu_s: float
    """CPU time of all living processes, and of the ended ones that they have waited for."""
    worker_mib: float
    """Resident memory of the largest process, the worker that holds the model."""
    total_mib: float
    """Resident memory of all processes; shared pages count once for each."""


@dataclass(frozen=True)
class RunningServer:
    """A server that is ready."""

    pid: int
    port: int
    """The port that requests go to."""
    http_port: int
    """The port of /metrics; `port` unless requests go to gRPC."""
    ready_s: float
    """From the command to 200 at /readyz."""


@contextlib.contextmanager
def start_server(target: EndpointTarget) -> Iterator[RunningServer]:
    """Start a target's server, yield it when it is ready, and stop it; a TuneportError if it does not start."""
    started = time.perf_counter()
    http_port, grpc_port = free_port(), free_port()
    environment = {"TUNEPORT_GRPC_PORT": str(grpc_port), **target.environment}
    command, url = target.command(http_port), f"http://{HOST}:{http_port}"
    children: list[psutil.Process] = []
    try:
        with running(command, url, environment, target.ready_path, target.start_timeout_s) as pid:
            port = grpc_port if target.protocol == "grpc" else http_port
            try:
                yield RunningServer(pid, port, http_port, time.perf_counter() - started)
            finally:
                children = descendants(pid)
    finally:
        # LitServe's processes outlive the one that started them, and would slow the next server.
        for child in children:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()


def descendants(pid: int) -> list[psutil.Process]:
    """Return the processes that a process has started, and theirs; none if it has ended."""
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def plan_load(
    target: EndpointTarget, port: int, inputs: Sequence[Any], *, connections: int, seconds: float
) -> LoadPlan:
    """Plan a closed loop that sends the inputs in turn, one a request, after a warm-up."""
    return LoadPlan(
        protocol=target.protocol,
        host=HOST,
        port=port,
        path=target.path,
        bodies=tuple(target.encode_request(value) for value in inputs),
        connections=connections,
        seconds=seconds,
        warm_up_s=WARM_UP_S,
    )


def run_load(plan: LoadPlan) -> LoadResult:
    """Run a plan in a process of its own; a TuneportError with the end of its output if it fails."""
    with tempfile.TemporaryDirectory() as folder:
        plan_file, result_file = Path(folder, "plan.json"), Path(folder, "result.json")
        plan_file.write_text(plan.model_dump_json(), encoding="utf-8")
        command = [*LOAD_GENERATOR, str(plan_file), str(result_file)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            reason = " ".join(done.stderr.split()[-MAX_ERROR_WORDS:])
            raise TuneportError(
                f"the load generator on port {plan.port} failed: {reason}",
                "look at the server's log; report it if there is no error in it",
            )
        return LoadResult.model_validate_json(result_file.read_bytes())


def load_server(target: EndpointTarget, plan: LoadPlan) -> LoadResult:
    """Run a plan against a target's server; a TuneportError if it answered no request of the timed load."""
    result = run_load(plan)
    if not result.answered:
        raise TuneportError(
            f"{target.name} answered nothing in {result.seconds:g} s: statuses {result.statuses}",
            "raise --seconds; if there are errors, start it by hand and look at its log",
        )
    return result


def resource_usage(root_pid: int) -> ResourceUsage:
    """Add up the usage of a process and its descendants, read from /proc.

    Descendants are found by their parents: BentoML's workers lead sessions of their own.
    """
    children: dict[int, list[int]] = {}
    ticks: dict[int, int] = {}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            # The process's name, which may hold any character, ends at the last bracket; proc(5) numbers the fields
            # from 1, so that fields[0] is field 3, the state.
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        children.setdefault(int(fields[1]), []).append(int(folder.name))
        ticks[int(folder.name)] = sum(int(field) for field in fields[11:15])  # utime, stime, cutime, cstime
    pids = [root_pid]
    for pid in pids:  # grows while it is read
        pids += children.get(pid, [])
    sizes_mib = [_resident_mib(pid) for pid in pids]
    cpu_s = sum(ticks.get(pid, 0) for pid in pids) / CLOCK_TICKS_PER_S
    return ResourceUsage(cpu_s, max(sizes_mib), sum(sizes_mib))


def _resident_mib(pid: int) -> float:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_BYTES / 2**20
    except OSError:  # it has just ended
        return 0.0
