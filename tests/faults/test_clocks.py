"""The clock of the wall jumps: time limits, waits and the service go on, because they read a monotonic clock."""

import ast
import json
import os
import shutil
import subprocess
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
SOURCE = ROOT / "tests" / "kit" / "wall_clock.c"
COMPILER = shutil.which("cc")
JUMPS_S = {"none": 0, "three hours": 10_800, "two days back": -172_800, "a year": 34_560_000, "an hour back": -3_600}


def clocks_of(file: Path) -> set[str]:
    """Return the clocks of the wall that a module reads."""
    calls = [node for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
    return {name for call in calls for name in OF_THE_WALL if f".{ast.unparse(call.func)}".endswith(f".{name}")}


def test_only_records_read_the_clock_of_the_wall() -> None:
    folders = [ROOT / "serve", *(ROOT / "tuneport" / name for name in ("client", "runtime", "scoring"))]
    readers = {str(file.relative_to(ROOT)) for folder in folders for file in folder.rglob("*.py") if clocks_of(file)}
    assert readers == ALLOWED


@pytest.mark.slow
@pytest.mark.skipif(COMPILER is None, reason="there is no C compiler (cc)")
def test_a_service_whose_clock_jumps_answers_in_time(tiny_artifact: Path, tmp_path: Path) -> None:
    library, offset = tmp_path / "wall_clock.so", tmp_path / "offset"
    subprocess.run([str(COMPILER), "-shared", "-fPIC", "-o", library, SOURCE, "-ldl"], check=True)
    offset.write_text("0")
    environment = {
        "LD_PRELOAD": str(library),
        "CLOCK_OFFSET_FILE": str(offset),
        "TUNEPORT_REQUEST_TIMEOUT_S": "5",
    }
    log = tmp_path / "log"
    with served(tiny_artifact, log, **environment) as (tree, ports):
        with httpx.Client(base_url=f"http://{HOST}:{ports[0]}", timeout=30) as client:
            for jump in JUMPS_S.values():
                offset.with_suffix(".new").write_text(str(jump))
                offset.with_suffix(".new").replace(offset)
                for _ in range(20):
                    assert client.post("/predict", json={"inputs": "bank"}).status_code == 200
                assert client.get("/readyz").status_code == 200
            time.sleep(0.1)
        assert len(alive(tree)) == len(tree)
    lines = [json.loads(line) for line in log.read_text().splitlines() if '"event":"request"' in line]
    days = {line["time"][:10] for line in lines}
    assert len(days) >= 3, "the clock did not jump"
    assert all(0 <= line["ms"] < 5000 for line in lines)
    assert os.environ.get("LD_PRELOAD") is None
