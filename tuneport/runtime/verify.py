"""`tuneport verify`: the hashes of every file, and the golden cases of every variant, on this machine."""

from collections.abc import Iterator
from pathlib import Path

from tuneport.runtime.golden import check_golden
from tuneport.runtime.loading import open_runner
from tuneport.schema.loading import check_files, load_golden, load_manifest


def verify(folder: Path) -> Iterator[tuple[str, float, float]]:
    """Yield each variant that is right: name, largest difference from torch, tolerance.

    Raises ArtifactError for a damaged file, GateError for a variant that answers otherwise here.
    """
    manifest = load_manifest(folder)
    check_files(folder, manifest)
    golden = load_golden(folder)
    for variant in manifest.variants:
        yield (
            variant.name,
            check_golden(open_runner(folder, manifest, variant), golden, variant),
            variant.evidence.tolerance,
        )
