"""`tuneport combine`."""

from pathlib import Path
from typing import Annotated

import typer

from tuneport.cli.json_output import json_output
from tuneport.cli.options import Artifact, Json, Out, Overwrite, Quiet, check_flags
from tuneport.cli.progress import progress_steps
from tuneport.cli.verify import describe
from tuneport.extras import require_extras
from tuneport.stages.export.config import ExportConfig

Others = Annotated[list[Path], typer.Argument(help="Artifacts of the same checkpoint, whose variants are added.")]
ModelName = Annotated[str | None, typer.Option(help="The model's name in responses. Default: the first artifact's.")]


def combine(
    artifact: Artifact,
    others: Others,
    *,
    out: Out,
    name: ModelName = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Put the variants of several artifacts of one checkpoint into one, such as those for a GPU and for CPUs.

    The first artifact's default variant serves where it runs, so give that of the preferred device first. Every variant
    that runs on this machine is checked; the signatures are not taken over. With --json: artifact, name, version,
    default_variant, variants and left_out.

    Example: tuneport combine artifacts/news-gpu artifacts/news --out artifacts/news-both
    """
    if name is not None:
        check_flags(ExportConfig, {"name": name})
    require_extras("combining artifacts", "export")
    from tuneport.stages.export.combine import combine as run_combine

    with json_output(enabled=as_json) as print_value, progress_steps(quiet=quiet) as progress:
        combined = run_combine([artifact, *others], out, name=name, overwrite=overwrite, progress=progress)
        manifest = combined.manifest
        if as_json:
            print_value(
                {
                    "artifact": str(out),
                    "name": manifest.name,
                    "version": manifest.version,
                    "default_variant": manifest.default_variant,
                    "variants": [each._asdict() for each in combined.verified],
                    "left_out": [{"variant": each, "artifact": str(folder)} for each, folder in combined.left_out],
                }
            )
            return
    for each in combined.verified:
        print(describe(each))
    for left_out, folder in combined.left_out:
        print(f"left out: {left_out} of {folder} with its evidence, because an artifact before it has the same variant")
    print(f"{manifest.default_variant} serves where it runs; wrote {out}; next: tuneport inspect {out}")
