"""The memory of an export: the peak of its processes in each step, against the size of the checkpoint.

python -m tuneport.stages.benchmarks.export_memory CHECKPOINT [options of `tuneport export`]
"""

import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from tuneport.errors import TuneportError
from tuneport.schema.base import Frozen
from tuneport.schema.run import CHECKPOINT

INTERVAL_S = 0.1
STEP = re.compile(r"^\[ *[0-9.]+ s\] ([^:,\n]+)")
"""The step of a line of progress, without its details."""


class ExportMemory(Frozen):
    """What an export took."""

    checkpoint_mib: float
    """Weights of the checkpoint."""
    peak_mib: float
    """The most that all its processes held together; pages that they share count once (PSS)."""
    steps: dict[str, float]
    """Step → its peak, MiB, in the order of the steps."""
    seconds: float

    @property
    def limit_mib(self) -> float:
        """Three times the checkpoint and 1 GiB."""
        return 3 * self.checkpoint_mib + 1024


def measure_export(checkpoint: Path, options: Sequence[str] = ()) -> ExportMemory:
    """Export a checkpoint to a temporary folder and watch its memory.

    Raises TuneportError, with the last line of its output, if the export fails.
    """
    weights = checkpoint / CHECKPOINT if (checkpoint / CHECKPOINT).is_dir() else checkpoint
    checkpoint_mib = sum(file.stat().st_size for file in weights.glob("*.safetensors")) / 2**20
    steps: dict[str, float] = {"start": 0.0}
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "tuneport", "export", str(checkpoint), "--out", f"{folder}/artifact", *options]
        started = time.monotonic()
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
            lines: list[str] = []
            assert process.stderr is not None
            reader = threading.Thread(target=lines.extend, args=(process.stderr,), daemon=True)
            reader.start()
            while process.poll() is None:
                step = next((match[1] for line in reversed(lines) if (match := STEP.match(line))), "start")
                steps[step] = max(steps.get(step, 0.0), tree_mib(process.pid))
                time.sleep(INTERVAL_S)
            reader.join()
    if process.returncode:
        raise TuneportError(f"the export failed: {lines[-1].strip() if lines else 'no message'}", "correct that first")
    return ExportMemory(
        checkpoint_mib=round(checkpoint_mib, 1),
        peak_mib=round(max(steps.values()), 1),
        steps={step: round(peak, 1) for step, peak in steps.items()},
        seconds=round(time.monotonic() - started, 1),
    )


def tree_mib(pid: int) -> float:
    """Return the proportional set size (PSS) of a process and all below it, MiB; 0 once it has ended."""
    total_kib = 0
    try:
        tree = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0.0
    for each in tree:
        try:
            rollup = Path(f"/proc/{each.pid}/smaps_rollup").read_text(encoding="ascii")
        except OSError:  # it has ended
            continue
        total_kib += sum(int(kib) for kib in re.findall(r"^Pss: +([0-9]+) kB", rollup, re.MULTILINE))
    return total_kib / 1024


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the peaks as JSON; returns 1 if the peak is over the limit or the export fails."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or given[0].startswith("-"):
        sys.stderr.write(f"{__doc__}\n")
        return 2
    try:
        memory = measure_export(Path(given[0]), given[1:])
    except TuneportError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    sys.stdout.write(f"{memory.model_dump_json(indent=2)}\n")
    sys.stderr.write(f"peak {memory.peak_mib:.0f} MiB, limit {memory.limit_mib:.0f} MiB\n")
    return int(memory.peak_mib > memory.limit_mib)


if __name__ == "__main__":
    sys.exit(main())
