"""`tuneport verify`."""

from tuneport.cli.options import Artifact


def verify(artifact: Artifact) -> None:
    """Check the hashes of all files and the golden cases of every variant on this machine."""
    from tuneport.runtime.verify import verify as run_verify

    for name, difference, tolerance in run_verify(artifact):
        print(f"{name}: files and golden cases right, max |Δ| {difference:.2g} (allowed {tolerance:.2g})")
