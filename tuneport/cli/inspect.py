"""`tuneport inspect`."""

from tuneport.cli.options import Artifact, Json


def inspect(artifact: Artifact, as_json: Json = False) -> None:
    """Show an artifact's evidence as a table, and which variants run on this machine.

    With --json it is the manifest, and for each variant why it does not run here, or null.

    Example: tuneport inspect artifacts/reviews
    """
    from tuneport.cli.tables import print_artifact, print_artifact_json

    if as_json:
        print_artifact_json(artifact)
        return
    print_artifact(artifact)
