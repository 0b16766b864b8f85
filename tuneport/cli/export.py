"""`tuneport export`."""

import sys
from pathlib import Path
from typing import Any

from tuneport.cli.json_output import json_output
from tuneport.cli.options import Json, Out, Overwrite, Quiet, with_config
from tuneport.cli.progress import progress_steps
from tuneport.extras import require_extras
from tuneport.schema.artifact import Manifest
from tuneport.stages.export.config import ExportConfig


@with_config(ExportConfig, positional="checkpoint")
def export(
    config: ExportConfig, out: Out, overwrite: Overwrite = False, quiet: Quiet = False, as_json: Json = False
) -> None:
    """Convert a checkpoint to ONNX, prove every variant against torch, and write the artifact.

    Exits with 1 and writes nothing if the fp32 variant does not answer as torch does. The artifact is also
    registered with BentoML, so that a plain `bentoml build` in a checkout of tuneport builds it. With --json: artifact,
    name, version, tag, default_variant, variants and rejected.

    Example: tuneport export runs/reviews --out artifacts/reviews, or for a checkpoint from elsewhere tuneport export
    path/to/checkpoint --data reviews/ --out artifacts/reviews
    """
    require_extras("the export", "export")
    is_fresh = "torch" not in sys.modules  # forks hang where torch has been used
    from tuneport.stages.export.card import variant_table
    from tuneport.stages.export.pipeline import export as run_export

    with json_output(enabled=as_json) as print_value, progress_steps(quiet=quiet) as progress:
        manifest = run_export(config, out, overwrite=overwrite, progress=progress, steps_apart=is_fresh)
        from tuneport.stages.serve.bento import register  # not before the steps of the export, which would hold it, too

        tag = str(register(out))
        if as_json:
            print_value(_summary(manifest, out, tag))
            return
    print("\n".join(variant_table(manifest, manifest.default_variant)))
    for rejected in manifest.rejected:
        print(f"not in the artifact: {rejected.name}: {rejected.reason}")
    print(f"{manifest.default_variant} serves by default: {manifest.default_because}")
    print(f"wrote {out}, registered as {tag}; next: tuneport serve {out}")


def _summary(manifest: Manifest, out: Path, tag: str) -> dict[str, Any]:
    """Return what a script wants to know of an export; manifest.json has all of it."""
    return {
        "artifact": str(out),
        "name": manifest.name,
        "version": manifest.version,
        "tag": tag,
        "default_variant": manifest.default_variant,
        "variants": [variant.name for variant in manifest.variants],
        "rejected": {rejected.name: rejected.reason for rejected in manifest.rejected},
    }
