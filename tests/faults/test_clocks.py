"""The clock of the wall jumps: time limits, waits and the service go on, because they read a monotonic clock."""

import ast
import json
import os
import time
from pathlib import Path

import httpx
import pytest
from kit import ROOT
from kit.processes import HOST, alive, served

OF_THE_WALL = {"time.time", "time.time_ns", "datetime.now", "datetime.utcnow", "datetime.today", "date.today"}
ALLOWED = {
    "serve/http/openai_schema.py",  # `created` of OpenAI's answers
    "serve/logs.py",  # the time of a log line
    "serve/tracing.py",  # the times of a span
    "tuneport/client/errors.py",  # Retry-After as a date
}
LIBRARY = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1")


def clocks_of(file: Path) -> set[str]:
    """Return the clocks of the wall that a module reads."""
    calls = [node for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
    return {name for call in calls for name in OF_THE_WALL if f".{ast.unparse(call.func)}".endswith(f".{name}")}


def test_only_records_read_the_clock_of_the_wall() -> None:
    folders = [ROOT / "serve", *(ROOT / "tuneport" / name for name in ("client", "runtime", "scoring"))]
    readers = {str(file.relative_to(ROOT)) for folder in folders for file in folder.rglob("*.py") if clocks_of(file)}
    assert readers == ALLOWED


@pytest.mark.slow
@pytest.mark.skipif(not LIBRARY.is_file(), reason="libfaketime is not installed (apt-get install faketime)")
def test_a_service_whose_clock_jumps_answers_in_time(tiny_artifact: Path, tmp_path: Path) -> None:
    offset = tmp_path / "offset"
    offset.write_text("+0")
    environment = {
        "LD_PRELOAD": str(LIBRARY),
        "FAKETIME_TIMESTAMP_FILE": str(offset),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "TUNEPORT_REQUEST_TIMEOUT_S": "5",
    }
    log = tmp_path / "log"
    with served(tiny_artifact, log, **environment) as (tree, ports):
        with httpx.Client(base_url=f"http://{HOST}:{ports[0]}", timeout=30) as client:
            for jump in ("+0", "+3h", "-2d", "+400d", "-1h"):
                offset.write_text(jump)
                for _ in range(20):
                    assert client.post("/predict", json={"inputs": "bank"}).status_code == 200
                assert client.get("/readyz").status_code == 200
            time.sleep(0.1)
        assert len(alive(tree)) == len(tree)
    lines = [json.loads(line) for line in log.read_text().splitlines() if '"event":"request"' in line]
    days = {line["time"][:10] for line in lines}
    assert len(days) >= 3, "the clock did not jump"
    assert all(0 <= line["ms"] < 5000 for line in lines if "ms" in line)
    assert os.environ.get("LD_PRELOAD") is None
