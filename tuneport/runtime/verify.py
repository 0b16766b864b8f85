"""Verify an artifact on this host: the hashes of its files, and the golden cases of every variant that runs here."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tuneport.runtime.availability import obstacles, use_fit_gpu
from tuneport.runtime.golden import check_golden
from tuneport.runtime.loading import open_runner
from tuneport.schema.artifact import Execution
from tuneport.schema.loading import check_files, load_golden, load_manifest


class Verified(NamedTuple):
    """The result for a variant whose files have the hashes of the manifest."""

    name: str
    difference: float | None
    """The largest difference from torch on the golden cases; None where the host lacks the variant's GPU or engine."""
    tolerance: float
    obstacle: str | None = None
    """What the variant needs and this host lacks."""


def verify(folder: Path) -> Iterator[Verified]:
    """Yield each variant, verified.

    Raises ArtifactError for a damaged file, GateError for a variant whose outputs differ by more than its tolerance,
    EngineError for one that cannot be opened. A variant for a GPU or an engine that is not here is an error only if no
    other variant runs: an artifact may hold variants for several devices and engines.
    """
    manifest = load_manifest(folder)
    check_files(folder, manifest)
    golden, found = load_golden(folder), obstacles(manifest)
    use_fit_gpu(*(variant.execution for variant in manifest.variants if found[variant.name] is None))
    for variant in manifest.variants:
        tolerance, obstacle = variant.evidence.tolerance, found[variant.name]
        if obstacle and _is_absent(variant.execution) and None in found.values():
            yield Verified(variant.name, None, tolerance, obstacle)
        else:
            difference = check_golden(open_runner(folder, manifest, variant), golden, variant)
            yield Verified(variant.name, difference, tolerance)


def _is_absent(execution: Execution) -> bool:
    """Tell whether the host lacks a variant's GPU or its engine's package, rather than an instruction of the CPU."""
    return execution.device != "cpu" or importlib.util.find_spec(execution.engine) is None
