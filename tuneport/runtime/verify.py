"""Verify an artifact on this host: the hashes of its files, and the golden cases of every variant."""

from collections.abc import Iterator
from pathlib import Path

from tuneport.runtime.golden import check_golden
from tuneport.runtime.loading import open_runner
from tuneport.schema.loading import check_files, load_golden, load_manifest


def verify(folder: Path) -> Iterator[tuple[str, float, float]]:
    """Yield each verified variant: its name, its difference from torch, and its tolerance.

    Raises ArtifactError for a damaged file, GateError for a variant whose outputs differ by more than its tolerance.
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
