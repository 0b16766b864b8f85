"""`tuneport inspect`."""

from tuneport.cli.options import Artifact


def inspect(artifact: Artifact) -> None:
    """Show an artifact's evidence as a table."""
    from tuneport.cli.tables import print_artifact

    print_artifact(artifact)
