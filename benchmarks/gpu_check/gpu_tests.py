"""Step `gpu-tests`: the tests marked `gpu`, from the checkout that this module is in.

    python -m tuneport.stages.benchmarks.gpu_check.gpu_tests DEVICE RESULT

Without a GPU all of them are skipped, which the step accepts on a CPU alone. On SIGTERM pytest is interrupted, and the
result has the tests that ran before.
"""

import contextlib
import importlib.util
import json
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[2]
MARKER = "pytest.mark.gpu"
PROCESSES = 8
OPTIONS = ("-q", "-m", "gpu", "-p", "no:cacheprovider", "-o", "addopts=", "-o", "filterwarnings=default")
"""Warnings are no errors here: a GPU machine may have other versions of the libraries."""


def gpu_test_files(root: Path) -> list[Path]:
    """Return the files with tests for a GPU; others may import packages that the machine does not have."""
    return [file for file in sorted((root / "tests").rglob("test_*.py")) if MARKER in file.read_text(encoding="utf-8")]


def run_gpu_tests(root: Path = ROOT) -> tuple[int, dict[str, Any]]:
    """Run the tests; returns pytest's exit code, and how many passed, failed and were skipped, and why."""
    with tempfile.TemporaryDirectory() as folder:
        junit = Path(folder) / "junit.xml"
        processes = ("-n", str(PROCESSES)) if importlib.util.find_spec("xdist") else ()
        files = map(str, gpu_test_files(root))
        command = [sys.executable, "-m", "pytest", *files, *OPTIONS, *processes, f"--junitxml={junit}"]
        code = _run(command, root)
        cases = list(ElementTree.parse(junit).iter("testcase")) if junit.is_file() else []
    return code, count_cases(cases)


def _run(command: list[str], root: Path) -> int:
    """Run pytest; SIGTERM interrupts it, so that it still writes its report."""
    process = subprocess.Popen(command, cwd=root)
    before = signal.signal(signal.SIGTERM, lambda *_: process.send_signal(signal.SIGINT))
    try:
        return process.wait()
    finally:
        signal.signal(signal.SIGTERM, before)
        with contextlib.suppress(ProcessLookupError):
            process.kill()


def count_cases(cases: list[ElementTree.Element]) -> dict[str, Any]:
    """Count the cases of a JUnit report."""
    skipped = [case.find("skipped") for case in cases]
    reasons = sorted({str(each.get("message")) for each in skipped if each is not None})
    failed = [str(case.get("name")) for case in cases if {"failure", "error"} & {child.tag for child in case}]
    num_skipped = sum(each is not None for each in skipped)
    return {
        "passed": len(cases) - num_skipped - len(failed), "failed": failed, "skipped": num_skipped, "reasons": reasons,
    }  # fmt: skip


def main() -> None:
    """Run the tests; exit with 1 if one fails or, on a GPU, if none passes."""
    device, result = sys.argv[1:]
    if not (ROOT / "tests").is_dir():
        sys.exit("error: the tests are in a checkout of the project, and this is an installed package")
    code, found = run_gpu_tests()
    Path(result).write_text(json.dumps(found), encoding="utf-8")
    if code or found["failed"]:
        sys.exit(f"error: pytest ended with {code}; failed: {', '.join(found['failed']) or 'none'}")
    if device == "cuda" and not found["passed"]:
        sys.exit(f"error: no test ran on the GPU: {'; '.join(found['reasons'])}")


if __name__ == "__main__":
    main()
