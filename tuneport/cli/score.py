"""`tuneport score`."""

from pathlib import Path
from typing import Annotated

import typer

from tuneport.cli.json_output import json_output
from tuneport.cli.options import Json, Quiet, with_config
from tuneport.cli.progress import print_warning
from tuneport.cli.row_progress import progress_rows
from tuneport.cli.signals import explain_interruption
from tuneport.scoring.config import ScoreConfig

OutFile = Annotated[
    Path,
    typer.Option(
        help="File to write: in the format of the input, JSONL or, for a table, Parquet; must not exist unless "
        "--overwrite."
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace --out, and start again a run of other settings.")]


@with_config(ScoreConfig, positional=("artifact", "input"))
def score(
    config: ScoreConfig, out: OutFile, overwrite: Overwrite = False, quiet: Quiet = False, as_json: Json = False
) -> None:
    """Score every row of a file of any size, in order; the same command continues what was interrupted.

    With --json: out, scored and rejected.

    Example: tuneport score artifacts/reviews reviews.parquet --out scored.parquet --columns text=review
    """
    from tuneport.scoring.pipeline import score as run_score

    note = f"interrupted; the same command continues {out}"
    with (
        json_output(enabled=as_json) as print_value,
        explain_interruption(note),
        progress_rows(quiet=quiet) as progress,
    ):
        result = run_score(config, out, overwrite=overwrite, progress=progress)
        if as_json:
            print_value({"out": str(out), "scored": result.scored, "rejected": result.rejected})
    if result.rejected:
        print_warning(f"{result.rejected} rows could not be scored: {result.rejects} has them, with the reasons")
    if not as_json:
        print(f"scored {result.scored} rows; wrote {out}")
