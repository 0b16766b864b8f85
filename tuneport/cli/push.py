"""`tuneport push`."""

from pathlib import Path
from typing import Annotated

import typer

from tuneport.cli.json_output import json_output, print_json
from tuneport.cli.options import SECRET_KEY, Json

What = Annotated[str, typer.Argument(help="An artifact folder, or the tag of a bento that `tuneport build` made.")]
To = Annotated[str, typer.Argument(help="A folder or a URL such as s3://bucket/news; for a bento ending in .tar.")]
SecretKey = Annotated[Path | None, SECRET_KEY]
Replace = Annotated[bool, typer.Option("--overwrite", help="Replace an artifact or a bento that is there.")]


def push(what: What, url: To, secret_key: SecretKey = None, overwrite: Replace = False, as_json: Json = False) -> None:
    """Copy an artifact, or a bento, to a folder or an object store, after a check of its hashes.

    With --secret-key a bento is signed; an artifact is signed by `tuneport sign`, before.

    With --json: name and version of an artifact, tag of a bento, and url.

    Example: tuneport push artifacts/reviews s3://models/reviews
    """
    if Path(what).exists() or ":" not in what:
        from tuneport.storage.artifacts import push as push_artifact

        if secret_key is not None:
            raise typer.BadParameter(
                "--secret-key signs bentos; sign an artifact with `tuneport sign` before it is pushed"
            )
        if url.endswith(".tar"):
            raise typer.BadParameter("a name that ends in .tar is for a bento: `tuneport pull` would look for one")
        manifest = push_artifact(Path(what), url, overwrite=overwrite)
        if as_json:
            print_json({"name": manifest.name, "version": manifest.version, "url": url})
            return
        print(f"pushed {manifest.name} {manifest.version} to {url}")
        return
    from tuneport.stages.serve.archive import push_bento

    with json_output(enabled=as_json) as print_value:
        tag = push_bento(what, url, secret_key=secret_key, overwrite=overwrite)
        if as_json:
            print_value({"tag": str(tag), "url": url})
            return
    print(f"pushed {tag} to {url}")
