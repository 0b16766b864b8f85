"""Whether artifacts may be combined: both are whole, and agree in all that decides an answer."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tuneport.errors import ArtifactError, GateError
from tuneport.folders import sha256
from tuneport.runtime.batch import RowOutputs
from tuneport.runtime.golden import difference
from tuneport.schema.artifact import CARD, GOLDEN, MANIFEST, PICTURE, GoldenCase, Manifest, Processing
from tuneport.schema.loading import check_files, load_golden, load_manifest
from tuneport.schema.selection import SELECTION

SAME_TEMPERATURE = 1e-3
"""Relative difference of temperatures that were fitted to the same model on two devices."""
Mismatch = tuple[str, str, str, str]
"""What differs, the values of the first artifact and of the other, and what to do."""


@dataclass(frozen=True)
class Source:
    """An artifact that was read, and whose files are those that passed the gate."""

    folder: Path
    manifest: Manifest
    golden: list[GoldenCase]
    manifest_sha256: str


def open_source(folder: Path) -> Source:
    """Read an artifact and check the hashes of its files; raises ArtifactError for a damaged one, and for a part."""
    manifest = load_manifest(folder)
    if (folder / SELECTION).exists():
        problem = f"{folder} is a part of an artifact, as a bento packs it"
        raise ArtifactError(problem, "give the artifact that `tuneport export` wrote")
    check_files(folder, manifest)
    return Source(folder, manifest, load_golden(folder), sha256(folder / MANIFEST))


def check_combinable(first: Source, other: Source) -> None:
    """Raise ArtifactError unless two artifacts are different exports of one checkpoint that answer in the same way."""
    if first.manifest_sha256 == other.manifest_sha256:
        problem = f"{first.folder} and {other.folder} are one artifact"
        raise ArtifactError(problem, "give artifacts that were exported for different devices, or on different hosts")
    for what, one, two, remedy in _mismatches(first, other):
        problem = f"{first.folder} and {other.folder} differ in {what}: {one} and {two}"
        raise ArtifactError(problem, remedy)


def reference_difference(first: Source, other: Source) -> float:
    """Return the largest difference of torch's outputs on the golden cases of two artifacts.

    Raises GateError if it is over the tolerance of the first's exact variant: the two references contradict each other.
    """
    pairs = zip(other.golden, first.golden, strict=True)
    found = max(_difference(theirs, ours) for theirs, ours in pairs)
    allowed = min(variant.evidence.tolerance for variant in first.manifest.variants)
    if not found <= allowed:
        problem = f"torch's outputs on the golden cases of {other.folder} differ by {found:.3g} from those of"
        remedy = "export both again with the same versions of torch and transformers"
        raise GateError(f"{problem} {first.folder}, and {allowed:.3g} is allowed", remedy)
    return found


def _difference(theirs: GoldenCase, ours: GoldenCase) -> float:
    try:
        # In float32, as `difference` reads the other ones: rounding must not make a difference.
        arrays: list[RowOutputs] = [
            {name: np.asarray(values, np.float32) for name, values in window.items()} for window in theirs.outputs
        ]
        return difference(arrays, ours.outputs)
    except (ValueError, TypeError, KeyError):  # golden.jsonl holds something else than outputs there
        return math.inf


def _mismatches(first: Source, other: Source) -> Iterator[Mismatch]:
    """Yield in what two artifacts differ that must be the same in both."""
    yield from _model_mismatches(first.manifest, other.manifest)
    yield from _file_mismatches(first.manifest, other.manifest)
    yield from _golden_mismatches(first.golden, other.golden)


def _model_mismatches(one: Manifest, two: Manifest) -> Iterator[Mismatch]:
    checkpoint, settings = "export both from one checkpoint", "export both with the same settings"
    hashes = [each.provenance.checkpoint_sha256 for each in (one, two)]
    if one.task != two.task:
        yield "their task", one.task, two.task, checkpoint
    if hashes[0] != hashes[1]:
        yield "their checkpoint", hashes[0][:12], hashes[1][:12], checkpoint
    if one.labels != two.labels:
        yield "their labels", ", ".join(one.labels), ", ".join(two.labels), checkpoint
    for field in _differing(one.processing, two.processing):
        values = [str(getattr(each.processing, field)) for each in (one, two)]
        yield f"their {field.replace('_', ' ')}", *_pair(values), settings


def _file_mismatches(one: Manifest, two: Manifest) -> Iterator[Mismatch]:
    versions = "export both with the same versions of tuneport and its packages"
    for what in ("inputs", "outputs"):
        tensors = [[f"{each.name} {each.dtype}" for each in getattr(manifest, what)] for manifest in (one, two)]
        if tensors[0] != tensors[1]:
            yield f"the {what} of their graphs", *_pair([", ".join(each) for each in tensors]), versions
    shared = [_shared(manifest) for manifest in (one, two)]
    for path in sorted(shared[0].keys() | shared[1].keys()):
        texts = [each.get(path, "none") for each in shared]
        if texts[0] != texts[1]:
            yield path, *_pair([f"SHA-256 {text[:12]}" for text in texts]), versions


def _golden_mismatches(one: list[GoldenCase], two: list[GoldenCase]) -> Iterator[Mismatch]:
    data = "export both with the same --data and --max-gate-rows"
    cases = [[(case.batch, case.input) for case in golden] for golden in (one, two)]
    if len(cases[0]) != len(cases[1]):
        yield "the number of their golden cases", str(len(cases[0])), str(len(cases[1])), data
    for ours, theirs in zip(*cases, strict=False):
        if ours != theirs:
            yield "the inputs of their golden cases", *_pair([_short(ours), _short(theirs)]), data


def _pair(values: list[str]) -> tuple[str, str]:
    return values[0], values[1]


def _short(case: tuple[str, Any]) -> str:
    return repr(case[1])[:60]


def _differing(one: Processing, two: Processing) -> list[str]:
    """Name the fields of the processing that differ; temperatures of two devices differ in their last digits."""
    fields = [name for name in Processing.model_fields if getattr(one, name) != getattr(two, name)]
    is_same = math.isclose(one.temperature, two.temperature, rel_tol=SAME_TEMPERATURE)
    return [name for name in fields if not (name == "temperature" and is_same)]


def _shared(manifest: Manifest) -> dict[str, str]:
    """Return the hashes of the files that must be the same: all that variants share but golden cases and model card."""
    return {file.path: file.sha256 for file in manifest.files if file.path not in (GOLDEN, CARD, PICTURE)}
