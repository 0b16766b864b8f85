"""`tuneport build`."""

from typing import Annotated

import typer

from tuneport.cli.fields import PARSERS
from tuneport.cli.json_output import json_output
from tuneport.cli.options import Artifact, Json, MoreArtifacts

Variants = Annotated[
    str,
    typer.Option(
        metavar="A,B,…",
        help="Variants that the bento holds of each artifact; the first serves by default. Default: the artifact's "
        "default variant, and its fallback for processors on which that does not run.",
    ),
]


def build(artifact: Artifact, more: MoreArtifacts = None, variants: Variants = "", as_json: Json = False) -> None:
    """Register artifacts with BentoML and build the bento that serves them.

    Example: tuneport build artifacts/reviews, then tuneport containerize tuneport:latest
    """
    from tuneport.stages.serve.bento import build as run_build

    with json_output(enabled=as_json) as print_value:
        bento = run_build(artifact, PARSERS[tuple](variants), more or ())
        if as_json:
            print_value({"tag": str(bento.tag)})
            return
    print(f"built {bento.tag}; next: bentoml serve {bento.tag}, or tuneport containerize {bento.tag}")
