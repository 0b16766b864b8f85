"""`tuneport verify`."""

from dataclasses import asdict
from typing import TYPE_CHECKING

from tuneport.cli.json_output import json_output
from tuneport.cli.options import Artifact, Json, PublicKey

if TYPE_CHECKING:
    from tuneport.runtime.verify import Verified
    from tuneport.signing import SignatureCheck


def verify(artifact: Artifact, public_key: PublicKey = None, as_json: Json = False) -> None:
    """Check the hashes of all files, the golden cases of every variant, and with --public-key the signature.

    Exits with 1 if anything differs. With --json: signature (state, key_id and comment) and variants.

    Example: tuneport verify artifacts/reviews --public-key release.key.pub
    """
    from tuneport.runtime.verify import verify as run_verify
    from tuneport.signing import check_signature, find_public_key

    key = find_public_key(public_key) if public_key is not None else None
    signature = check_signature(artifact, key, is_required=key is not None)
    if as_json:
        with json_output(enabled=True) as print_value:
            print_value({"signature": asdict(signature), "variants": [each._asdict() for each in run_verify(artifact)]})
        return
    print(_describe_signature(signature))
    for each in run_verify(artifact):
        print(describe(each))


def _describe_signature(signature: "SignatureCheck") -> str:
    """Say what is known of a signature, in a line."""
    if signature.state == "valid":
        return f"signature valid: {signature.key_id}, {signature.comment}"
    return "signature not checked: give --public-key" if signature.state == "unchecked" else "not signed"


def describe(verified: "Verified") -> str:
    """Say what was found of a variant, in a line."""
    if verified.difference is None:
        return f"{verified.name}: files intact; golden cases not run, because it {verified.obstacle}"
    allowed = f"max |Δ| {verified.difference:.2g} (allowed {verified.tolerance:.2g})"
    return f"{verified.name}: files intact; golden cases match, {allowed}"
