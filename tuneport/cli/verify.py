"""`tuneport verify`."""

from tuneport.cli.json_output import json_output
from tuneport.cli.options import Artifact, Json, PublicKey


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
        if each.difference is None:
            print(f"{each.name}: files intact; golden cases not run, because it {each.obstacle}")
        else:
            allowed = f"max |Δ| {each.difference:.2g} (allowed {each.tolerance:.2g})"
            print(f"{each.name}: files intact; golden cases match, {allowed}")
