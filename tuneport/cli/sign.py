"""`tuneport sign` and `tuneport keygen`."""

from pathlib import Path
from typing import Annotated

import typer

from tuneport.cli.options import SECRET_KEY, Artifact

SecretKey = Annotated[Path, SECRET_KEY]
NewKey = Annotated[Path, typer.Argument(help="File of the secret key; its public key is written beside it, as .pub.")]


def sign(artifact: Artifact, secret_key: SecretKey) -> None:
    """Sign an artifact's manifest, and through its hashes every file, in minisign's format.

    Example: tuneport sign artifacts/reviews --secret-key release.key
    """
    from tuneport.signing import SIGNATURE
    from tuneport.signing import sign as run_sign

    signed = run_sign(artifact, secret_key)
    print(f"wrote {artifact / SIGNATURE}, signed by {signed.key_id}")


def keygen(key: NewKey) -> None:
    """Make a pair of keys for `tuneport sign`; with TUNEPORT_SIGNING_PASSWORD the secret key gets that password.

    Example: tuneport keygen release.key
    """
    import os

    from tuneport.signing import PASSWORD, make_keys

    public = make_keys(key, os.environ.get(PASSWORD))
    line = public.read_text(encoding="ascii").splitlines()[-1]
    print(f"wrote {key} and {public}; keep the first secret, and serve with TUNEPORT_PUBLIC_KEY={line}")
