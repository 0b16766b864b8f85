"""Batch scoring in a process of its own that is really killed (kill -9), before a call that the test names."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from . import ROOT

CHILD = """
import os, pathlib, signal, sys
from tuneport.scoring import journal, pipeline
from tuneport.scoring.config import ScoreConfig

config, out, owner, name, number = sys.argv[1:]
owner = {"Journal": journal.Journal, "Path": pathlib.Path}[owner]
original, calls = getattr(owner, name), []

def call(self, *arguments):
    calls.append(1)
    if len(calls) == int(number):
        os.kill(os.getpid(), signal.SIGKILL)
    return original(self, *arguments)

setattr(owner, name, call)
pipeline.score(ScoreConfig.model_validate_json(config), pathlib.Path(out))
"""
"""Arguments: the config as JSON, the output, and the class, the method and the number of its call to be killed at."""


def score_until_killed(config: Any, out: Path, at: str, number: int) -> None:
    """Score until just before a call of `Journal.add` or `Path.replace`, counted from 1."""
    command = [sys.executable, "-c", CHILD, config.model_dump_json(), str(out), *at.split("."), str(number)]
    done = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]


def write_table(path: Path, rows: Iterable[dict[str, Any]]) -> Path:
    """Write rows in the format of the name: CSV, TSV, Parquet or JSON Lines; returns the path."""
    import csv

    import pyarrow
    from pyarrow import parquet

    rows = list(rows)
    if path.suffix == ".parquet":
        parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=50)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)
    return path


def read_table(path: Path) -> list[dict[str, Any]]:
    """Read what batch scoring wrote; the prediction of a table is parsed."""
    import csv

    from pyarrow import parquet

    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text().splitlines()]
    if path.suffix == ".parquet":
        rows: list[dict[str, Any]] = parquet.read_table(path).to_pylist()
    else:
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file, delimiter="\t" if path.suffix == ".tsv" else ","))
    return [{**row, "prediction": json.loads(row["prediction"])} for row in rows]
