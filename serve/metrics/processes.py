"""The service's processes and its version in the metrics; prometheus_client's own see one process alone."""

import contextlib
import os
import platform
from collections.abc import Iterator
from typing import Any

import psutil

from tuneport.version import VERSION

from .. import supervision

LABELS = ("process", "pid")
RESIDENT, CPU, STARTED, FILES = "resident_memory_bytes", "cpu_seconds", "start_time_seconds", "open_fds"


class ProcessCollector:
    """Reads the workers and engines of this service at each scrape."""

    def collect(self) -> Iterator[Any]:
        """Yield a metric for each reading, with a sample for each process."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        build = GaugeMetricFamily("tuneport_build_info", "Versions; always 1.", labels=["version", "python"])
        build.add_metric([VERSION, platform.python_version()], 1)
        yield build
        families: dict[str, Any] = {
            RESIDENT: GaugeMetricFamily(_name(RESIDENT), "Memory of a process.", labels=LABELS),
            CPU: CounterMetricFamily(_name(CPU), "Processor time of a process.", labels=LABELS),
            STARTED: GaugeMetricFamily(_name(STARTED), "Start of a process, in Unix time.", labels=LABELS),
            FILES: GaugeMetricFamily(_name(FILES), "Open files of a process.", labels=LABELS),
        }
        for kind, process in _processes():
            with contextlib.suppress(psutil.Error):  # it has just ended
                for name, value in _read(process).items():
                    families[name].add_metric([kind, str(process.pid)], value)
        yield from families.values()


def _name(reading: str) -> str:
    return f"tuneport_process_{reading}"


def _read(process: psutil.Process) -> dict[str, float]:
    with process.oneshot():
        times = process.cpu_times()
        return {
            RESIDENT: process.memory_info().rss,
            CPU: times.user + times.system,
            STARTED: process.create_time(),
            FILES: process.num_fds(),
        }


def _processes() -> Iterator[tuple[str, psutil.Process]]:
    """Find the processes that were ready and live; this one alone where no supervisor has started it."""
    found = supervision.ready_processes() or [(supervision.WORKER, os.getpid())]
    for kind, pid in found:
        with contextlib.suppress(psutil.Error):
            yield kind, psutil.Process(pid)
