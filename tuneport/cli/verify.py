"""`tuneport verify`."""

from typing import TYPE_CHECKING

from tuneport.cli.json_output import json_output
from tuneport.cli.options import Artifact, Json, PublicKey

if TYPE_CHECKING:
    from tuneport.runtime.verify import Verified


def verify(artifact: Artifact, public_key: PublicKey = None, as_json: Json = False) -> None:
    """Check the hashes of all files, the golden cases of every variant, and with --public-key the signature.

    Exits with 1 if anything differs. Example: tuneport verify artifacts/reviews
    """
    from tuneport.runtime.verify import verify as run_verify
    from tuneport.signing import check_signature, find_public_key

    if public_key is not None:
        signature = check_signature(artifact, find_public_key(public_key), is_required=True)
        if not as_json:
            print(f"signature valid: {signature.key_id}, {signature.comment}")
    if as_json:
        with json_output(enabled=True) as print_value:
            print_value({"variants": [each._asdict() for each in run_verify(artifact)]})
        return
    for each in run_verify(artifact):
        print(describe(each))


def describe(verified: "Verified") -> str:
    """Say what was found of a variant, in a line."""
    if verified.difference is None:
        return f"{verified.name}: files intact; golden cases not run, because it {verified.obstacle}"
    allowed = f"max |Δ| {verified.difference:.2g} (allowed {verified.tolerance:.2g})"
    return f"{verified.name}: files intact; golden cases match, {allowed}"
