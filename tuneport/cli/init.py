"""`tuneport init`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from tuneport.cli.options import SetValues, with_flags
from tuneport.cli.progress import print_warning
from tuneport.stages.finetune.config import FinetuneConfig

Source = Annotated[str, typer.Argument(help=" ".join((FinetuneConfig.model_fields["data"].description or "").split()))]
OutFile = Annotated[Path, typer.Option("--out", help="TOML file to write; must not exist unless --overwrite.")]
OverwriteFile = Annotated[bool, typer.Option("--overwrite", help="Replace --out.")]


@with_flags(FinetuneConfig, ("task", "model", "columns", "splits", "trust_remote_code"))
def init(
    flags: dict[str, Any], data: Source, out: OutFile, set_: SetValues = None, overwrite: OverwriteFile = False
) -> None:
    """Write a commented settings file for your data: its task, columns, labels and lengths, and what to beware of.

    Every row is checked. Without --task and --columns they are recognized from the columns' names and values; without
    --model it is the embedded encoder.

    Example: tuneport init reviews.csv --out reviews.toml, then tuneport finetune --config reviews.toml --out runs/x
    """
    from tuneport.stages.finetune.init.describe import describe
    from tuneport.stages.finetune.init.settings_file import write_settings

    source = str(Path(data).resolve()) if Path(data).exists() else data
    described = describe(
        source,
        task=flags.get("task"),
        model=flags.get("model"),
        columns=flags.get("columns", {}),
        splits=flags.get("splits", {}),
        settings=set_ or [],
        trust_remote_code=flags.get("trust_remote_code", False),
    )
    write_settings(described, out, overwrite=overwrite)
    print(f"{described.recognized.task}: {described.recognized.reason}")
    for warning in described.warnings:
        print_warning(warning)
    print(f"wrote {out}; next: tuneport finetune --config {out} --out runs/{out.stem}")
