"""Step `gpu-tests`: the tests marked `gpu`, from the checkout that this module is in.

    python -m tuneport.stages.benchmarks.gpu_check.gpu_tests DEVICE RESULT

Without a GPU all of them are skipped, which the step accepts on a CPU alone. If they are ended, the result has those
that ran before.
"""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import case_log
from .steps import write_result

ROOT = Path(__file__).resolve().parents[2]
MARKER = "pytest.mark.gpu"
PROCESSES = 8
OPTIONS = (
    "-q",
    "-m",
    "gpu",
    "-p",
    case_log.__name__,
    "-p",
    "no:cacheprovider",
    "-o",
    "addopts=",
    "-o",
    "filterwarnings=default",
)
"""Warnings are no errors here: a GPU machine may have other versions of the libraries."""


def gpu_test_files(root: Path) -> list[Path]:
    """Return the files with tests for a GPU; others may import packages that the machine does not have."""
    return [file for file in sorted((root / "tests").rglob("test_*.py")) if MARKER in file.read_text(encoding="utf-8")]


def run_gpu_tests(root: Path, result: Path) -> tuple[int, dict[str, Any]]:
    """Run the tests; returns pytest's exit code, and how many passed, failed and were skipped, and why.

    The counts are in `result` also if the run is ended.
    """
    processes = ("-n", str(PROCESSES)) if importlib.util.find_spec("xdist") else ()
    command = [sys.executable, "-m", "pytest", *map(str, gpu_test_files(root)), *OPTIONS, *processes]
    with tempfile.TemporaryDirectory() as folder:
        cases = Path(folder) / "cases.jsonl"
        cases.touch()
        process = subprocess.Popen(command, cwd=root, env={**os.environ, case_log.FILE: str(cases)})
        try:
            code = process.wait()
        finally:
            process.kill()
            found = count_cases([json.loads(line) for line in cases.read_text(encoding="utf-8").splitlines()])
            write_result(result, json.dumps(found))
    return code, found


def count_cases(cases: Sequence[dict[str, str]]) -> dict[str, Any]:
    """Count the outcomes of tests, which may have several: of their call and of their tear-down."""
    failed = {case["test"] for case in cases if case["outcome"] == "failed"}
    skipped = {case["test"]: case["reason"] for case in cases if case["outcome"] == "skipped"}
    passed = {case["test"] for case in cases if case["outcome"] == "passed"} - failed - skipped.keys()
    return {
        "passed": len(passed), "failed": sorted(failed), "skipped": len(skipped),
        "reasons": sorted(set(skipped.values())),
    }  # fmt: skip


def main() -> None:
    """Run the tests; exit with 1 if one fails or, on a GPU, if none passes."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the tests that ran are counted
    device, result = sys.argv[1:]
    if not (ROOT / "tests").is_dir():
        sys.exit("error: the tests are in a checkout of the project, and this is an installed package")
    code, found = run_gpu_tests(ROOT, Path(result))
    if code or found["failed"]:
        sys.exit(f"error: pytest ended with {code}; failed: {', '.join(found['failed']) or 'none'}")
    if device == "cuda" and not found["passed"]:
        sys.exit(f"error: no test ran on the GPU: {'; '.join(found['reasons'])}")


if __name__ == "__main__":
    main()
