"""Writes the files of a part: the scored rows, and those that could not be scored."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from tuneport.folders import sha256
from tuneport.scoring.journal import Part
from tuneport.scoring.plan import Plan
from tuneport.scoring.preparation import PreparedChunk
from tuneport.scoring.writers import Scored, json_line, write_part


def write_part_files(plan: Plan, prepared: PreparedChunk, scored: Scored) -> Part:
    """Write a chunk's part and return its entry of the journal once the files have reached the disk."""
    number, rejected = prepared.chunk.number, prepared.rejected
    names = Part(number, len(scored), len(rejected), "", "")
    output, rejects = names.output(plan.folder), names.rejects(plan.folder)
    with _durable(output) as file:
        write_part(file, prepared.rows, scored, plan.layout)
    with _durable(rejects) as file:
        file.write_text("".join(_rejected_lines(prepared)), encoding="utf-8")
    return Part(number, len(scored), len(rejected), sha256(output), sha256(rejects))


@contextlib.contextmanager
def _durable(path: Path) -> Iterator[Path]:
    """Yield a temporary path that is written to the disk and renamed to `path` when the block ends."""
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        yield partial
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    with partial.open("rb+") as file:
        os.fsync(file.fileno())
    partial.replace(path)


def _rejected_lines(prepared: PreparedChunk) -> Iterator[str]:
    for row in prepared.rows.rows:
        if row.number in prepared.rejected:
            content = row.raw if row.problem else prepared.rows.whole(row)
            yield json_line({"row": row.number, "reason": prepared.rejected[row.number], "input": content})
