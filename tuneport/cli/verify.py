"""`tuneport verify`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tuneport.cli.json_output import json_output
from tuneport.cli.options import Artifact, Json

if TYPE_CHECKING:
    from tuneport.runtime.verify import Verified

PublicKey = Annotated[Path | None, typer.Option("--key", help="Public key (.pub) of the signature that must be there.")]


def verify(artifact: Artifact, key: PublicKey = None, as_json: Json = False) -> None:
    """Check the hashes of all files and the golden cases of every variant on this machine; with --key the signature.

    Exits with 1 if anything differs. Example: tuneport verify artifacts/reviews
    """
    from tuneport.runtime.verify import verify as run_verify
    from tuneport.signing import check_signature, read_key_file

    if key is not None:
        signature = check_signature(artifact, read_key_file(key), is_required=True)
        if not as_json:
            print(f"signature right: {signature.key_id}, {signature.comment}")
    if as_json:
        with json_output(enabled=True) as print_value:
            print_value({"variants": [each._asdict() for each in run_verify(artifact)]})
        return
    for each in run_verify(artifact):
        print(describe(each))


def describe(verified: "Verified") -> str:
    """Say what was found of a variant, in a line."""
    name, difference = verified.name, verified.difference
    if difference is None:
        return f"{name}: files right; golden cases not run, because it {verified.obstacle}"
    return f"{name}: files and golden cases right, max |Δ| {difference:.2g} (allowed {verified.tolerance:.2g})"
