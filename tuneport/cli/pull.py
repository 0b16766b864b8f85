"""`tuneport pull`."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from tuneport.cli.json_output import json_output, print_json
from tuneport.cli.options import Json, Overwrite, PublicKey

From = Annotated[str, typer.Argument(help="What `tuneport push` wrote: a folder or a URL; of a bento it ends in .tar.")]
Out = Annotated[Path | None, typer.Option(help="Folder to write an artifact to; a bento goes to BentoML's store.")]


def pull(
    url: From, out: Out = None, public_key: PublicKey = None, overwrite: Overwrite = False, as_json: Json = False
) -> None:
    """Copy an artifact, or a bento, from a folder or an object store, and check its hashes and its signature.

    With --json: artifact, name, version and signature (state, key_id and comment), or the tag of a bento.

    Example: tuneport pull s3://models/reviews --out artifacts/reviews
    """
    from tuneport.signing import find_public_key

    key = find_public_key(public_key) if public_key is not None else None
    if url.endswith(".tar"):
        from tuneport.stages.serve.archive import pull_bento

        if out is not None or overwrite:
            raise typer.BadParameter("a bento goes to BentoML's store, without --out and --overwrite")
        with json_output(enabled=as_json) as print_value:
            tag = pull_bento(url, key)
            if as_json:
                print_value({"tag": str(tag)})
                return
        print(f"pulled {tag}")
        return
    from tuneport.storage.artifacts import pull as pull_artifact

    if out is None:
        raise typer.BadParameter("an artifact needs --out")
    manifest, signature = pull_artifact(url, out, public_key=key, is_required=key is not None, overwrite=overwrite)
    if as_json:
        found = {"artifact": str(out), "name": manifest.name, "version": manifest.version}
        print_json({**found, "signature": asdict(signature)})
        return
    print(f"pulled {manifest.name} {manifest.version} to {out}; signature: {signature.state}")
