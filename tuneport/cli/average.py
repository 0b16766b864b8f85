"""`tuneport average`."""

from pathlib import Path
from typing import Annotated

import typer

from tuneport.cli.options import Out, Overwrite
from tuneport.extras import require_extras

AllowRepeatedRuns = Annotated[
    bool, typer.Option("--allow-repeated-runs", help="A run that is named several times counts as often.")
]


def average(
    runs: Annotated[list[Path], typer.Argument(help="Run folders of one task on the same data.")],
    *,
    out: Out,
    overwrite: Overwrite = False,
    allow_repeated_runs: AllowRepeatedRuns = False,
) -> None:
    """Average the weights of several runs into a new run, and compare it with the runs and their ensemble.

    The runs share base model, task and data; the tasks are classification, regression and token classification.

    Example: tuneport average runs/a runs/b --out runs/mean
    """
    require_extras("averaging", "train")
    from tuneport.stages.finetune.average import average as run_average

    averages = run_average(runs, out, overwrite=overwrite, allow_repeated_runs=allow_repeated_runs)
    rows = {**averages.runs, "ensemble": averages.ensemble, "averaged weights": averages.weights}
    for name, splits in rows.items():
        for split, metrics in splits.items():
            print(f"{name}, {split}: " + ", ".join(f"{metric} {value:.4f}" for metric, value in metrics.items()))
    print(f"wrote {out}; next: tuneport export {out} --out artifacts/{out.name}")
