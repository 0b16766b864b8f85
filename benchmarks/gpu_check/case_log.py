"""A plugin of pytest that writes the outcome of each test as soon as it is known, in case the run is ended."""

import json
import os
from pathlib import Path

import pytest

FILE = "GPU_CHECK_CASES"
"""The variable that names the file, of one JSON object a line: `test`, `outcome`, and why one was skipped."""
WORKER = "PYTEST_XDIST_WORKER"
"""Set in xdist's workers, whose controller sees every outcome."""


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Write the outcome of a test, and that of its set-up and tear-down unless they pass."""
    if report.when == "call" or not report.passed:
        reason = report.longrepr[2] if report.skipped and isinstance(report.longrepr, tuple) else ""
        _write(report.nodeid, report.outcome, reason)


def pytest_collectreport(report: pytest.CollectReport) -> None:
    """Write that a file cannot be imported, or is skipped as a whole."""
    if not report.passed:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else ""
        _write(report.nodeid, report.outcome, reason)


def _write(test: str, outcome: str, reason: str) -> None:
    if (path := os.environ.get(FILE)) and WORKER not in os.environ:
        line = json.dumps({"test": test, "outcome": outcome, "reason": reason.removeprefix("Skipped: ")})
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(f"{line}\n")
