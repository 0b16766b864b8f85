"""A server under load, seen from outside: its processor time and memory, and the load's own process."""

import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from benchmarks.load import Plan, Tally
from export.files import TuneportError
from serve.bento import ROOT

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Usage:
    """What a server's processes have used."""

    cpu_s: float
    """Of all that live, and of those that they have waited for."""
    worker_mib: float
    """Resident memory of the largest: the worker with the model."""
    total_mib: float
    """Of all; pages that they share count more than once."""


def usage_of(root: int) -> Usage:
    """Add up a process and its descendants; BentoML's workers lead sessions of their own, so parents must tell."""
    children: dict[int, list[int]] = {}
    ticks: dict[int, int] = {}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            # The name, which may hold anything, is in brackets; fields are numbered as in proc(5), from the third.
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        children.setdefault(int(fields[1]), []).append(int(folder.name))
        ticks[int(folder.name)] = sum(int(field) for field in fields[11:15])
    family = [root]
    for parent in family:
        family += children.get(parent, [])
    sizes = [_resident_mib(pid) for pid in family]
    return Usage(sum(ticks.get(pid, 0) for pid in family) / TICKS_PER_S, max(sizes), sum(sizes))


def _resident_mib(pid: int) -> float:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_BYTES / 2**20
    except OSError:
        return 0.0


def run_load(plan: Plan) -> Tally:
    """Carry out a plan in a process of its own; a TuneportError with its last words if it fails."""
    with tempfile.TemporaryDirectory() as folder:
        plan_file, tally_file = Path(folder, "plan.json"), Path(folder, "tally.json")
        plan_file.write_text(plan.model_dump_json(), encoding="utf-8")
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.load", str(plan_file), str(tally_file)],
            capture_output=True,
            text=True,
            cwd=ROOT,
            check=False,
        )
        if done.returncode:
            problem = f"the load on port {plan.port} failed: {' '.join(done.stderr.split()[-30:])}"
            raise TuneportError(problem, "look at the server's log; report it if the server is well")
        return Tally.model_validate_json(tally_file.read_bytes())
