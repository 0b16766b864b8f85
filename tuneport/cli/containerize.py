"""`tuneport containerize`."""

from typing import Annotated

import typer

Tag = Annotated[str, typer.Argument(help="The bento that `tuneport build` built, such as tuneport:latest.")]


def containerize(context: typer.Context, tag: Tag) -> None:
    """Build a bento's image; further options are those of `bentoml containerize`, which does it.

    That command alone must be run in a folder above its temporary files, or it does not find the Dockerfile.

    Example: tuneport containerize tuneport:latest -t news:1 --backend buildah
    """
    from tuneport.stages.serve.bento import containerize as run_containerize

    raise typer.Exit(run_containerize(tag, context.args))
