"""`tuneport verify`."""

from tuneport.cli.options import Artifact


def verify(artifact: Artifact) -> None:
    """Check the hashes of all files and the golden cases of every variant on this machine."""
    from tuneport.runtime.verify import verify as run_verify

    for each in run_verify(artifact):
        if each.difference is None:
            print(f"{each.name}: files right; golden cases not run, because it {each.obstacle}")
        else:
            allowed = f"max |Δ| {each.difference:.2g} (allowed {each.tolerance:.2g})"
            print(f"{each.name}: files and golden cases right, {allowed}")
