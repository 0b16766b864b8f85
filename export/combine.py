"""Combine artifacts of one checkpoint, exported for several devices or on several hosts, into one.

Nothing is measured again: each variant keeps its evidence, and the manifest says where that was taken. The golden cases
are those of the first artifact. A variant of another one was compared with another run of torch, so its tolerance grows
by how far that is from the first: what is within t of the one is within t + d of the other.
"""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tuneport.errors import EngineError, TuneportError
from tuneport.folders import check_out, new_folder
from tuneport.runtime.availability import obstacles, use_fit_gpu
from tuneport.runtime.golden import check_golden
from tuneport.runtime.loading import open_runner
from tuneport.runtime.verify import Verified
from tuneport.schema.artifact import CARD, MANIFEST, MEASURED, PICTURE, Manifest, Measurements, Name, Variant
from tuneport.schema.loading import check_files, load_golden, load_manifest

from .card import write_card
from .combinable import Source, check_combinable, open_source, reference_difference
from .combined_files import Layout, Taken
from .pareto import draw_pareto

Progress = Callable[[str], object]


@dataclass(frozen=True)
class Combined:
    """A combined artifact, and what was found of its variants on this host."""

    manifest: Manifest
    verified: tuple[Verified, ...]
    left_out: tuple[tuple[str, Path], ...]
    """Variants that are in an earlier artifact, too, each with the artifact of which it was not taken."""


def combine(
    artifacts: Sequence[Path],
    out: Path,
    *,
    name: Name | None = None,
    overwrite: bool = False,
    progress: Progress = lambda _: None,
) -> Combined:
    """Write the variants of several artifacts to one, whose default variant and golden cases are those of the first.

    Every variant that runs on this host is run against the golden cases before anything is written to `out`; `progress`
    gets a line for each step. Raises TuneportError for an `out` that is, holds or lies in one of the artifacts;
    ArtifactError for an artifact that is damaged, or differs from the first in what decides an answer; GateError for
    golden cases that contradict the first's, and for a variant that fails them; EngineError if no variant runs here.
    """
    _check_apart(artifacts, out)
    check_out(out, marker=MANIFEST, overwrite=overwrite)
    sources = []
    for folder in artifacts:
        progress(f"checking {folder}")
        sources.append(open_source(folder))
    for number, source in enumerate(sources):
        for earlier in sources[:number]:
            check_combinable(earlier, source)
    first, *others = sources
    distances = [reference_difference(first, source) for source in others]
    with new_folder(out, marker=MANIFEST, overwrite=overwrite) as folder:
        progress("copying the files")
        layout = Layout(first.folder, first.manifest, folder)
        variants, measured = list(first.manifest.variants), list(first.manifest.others)
        left_out: list[tuple[str, Path]] = []
        for source, distance in zip(others, distances, strict=True):
            taken = layout.take(source.folder, source.manifest)
            left_out += [(each, source.folder) for each in taken.left_out]
            new_variants, measurements = _evidence(source, taken, distance)
            variants += new_variants
            measured += measurements
        placed = [each.model_copy(update={"execution": layout.executions[each.name]}) for each in variants]
        changes = {"name": name or first.manifest.name, "variants": tuple(placed), "others": tuple(measured)}
        progress("writing the manifest")
        manifest = _write(folder, first, first.manifest.model_copy(update=changes))
        return Combined(manifest, tuple(_verify(folder, manifest, progress)), tuple(left_out))


def _check_apart(artifacts: Sequence[Path], out: Path) -> None:
    """Refuse an output folder that is an artifact, holds one or lies in one, because writing it changes what it reads.

    Raises TuneportError.
    """
    place = out.resolve()
    for folder in artifacts:
        given = folder.resolve()
        if given == place or place in given.parents or given in place.parents:
            relation = "is" if given == place else "lies in" if given in place.parents else "holds"
            problem = f"{out} {relation} {folder}, one of the artifacts to combine"
            raise TuneportError(problem, "choose an --out apart from them")


def _evidence(source: Source, taken: Taken, distance: float) -> tuple[list[Variant], list[Measurements]]:
    """Return the variants that are taken of an artifact, still with its paths, and where they were measured.

    Their tolerance grows by the `distance` of their reference from the first one.
    """
    variants, measurements = [], []
    for part in source.manifest.parts:
        here = [variant for variant in part.variants if variant.name in taken.names]
        if not here:
            continue
        for variant in here:
            evidence = variant.evidence.model_copy(update={"tolerance": variant.evidence.tolerance + distance})
            changes = {"name": taken.names[variant.name], "evidence": evidence}
            variants.append(variant.model_copy(update=changes))
        best = part.best([variant.name for variant in here]) or here[0]
        because = part.default_because if best.name == part.default_variant else "it is the fastest of them"
        fields = {field: getattr(part, field) for field in MEASURED}
        fields |= {"default_variant": taken.names[best.name], "default_because": because}
        names = tuple(taken.names[variant.name] for variant in here)
        total = distance + _earlier_difference(source.manifest, here[0].name)
        measurements.append(Measurements(variants=names, reference_difference=total, **fields))
    return variants, measurements


def _earlier_difference(manifest: Manifest, name: str) -> float:
    """Return by how much a variant's tolerance grew when its artifact was combined; 0 unless it was."""
    return next((each.reference_difference for each in manifest.others if name in each.variants), 0.0)


def _write(folder: Path, first: Source, manifest: Manifest) -> Manifest:
    """Copy the files that all variants share, draw the picture, write card and manifest; returns the manifest."""
    shared = [file for file in first.manifest.files if file.path not in (CARD, PICTURE)]
    for file in shared:
        (folder / file.path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(first.folder / file.path, folder / file.path)
    manifest = manifest.model_copy(update={"files": tuple(shared)})
    manifest = manifest.model_copy(update={"files": (*manifest.files, draw_pareto(folder, manifest))})
    manifest = manifest.model_copy(update={"files": (*manifest.files, write_card(folder, manifest))})
    manifest.save(folder)
    return load_manifest(folder)


def _verify(folder: Path, manifest: Manifest, progress: Progress) -> list[Verified]:
    """Check the hashes of what was copied, and run the golden cases of every variant that runs here."""
    progress("checking what was copied")
    check_files(folder, manifest)
    golden, found = load_golden(folder), obstacles(manifest)
    if None not in found.values():
        reasons = ", and ".join(f"{name} {obstacle}" for name, obstacle in found.items())
        raise EngineError(f"no variant runs here: {reasons}", "combine the artifacts on a host where one does")
    use_fit_gpu(*(variant.execution for variant in manifest.variants if found[variant.name] is None))
    verified = []
    for variant in manifest.variants:
        difference, obstacle = None, found[variant.name]
        if obstacle is None:
            progress(f"running the golden cases of {variant.name}")
            difference = check_golden(open_runner(folder, manifest, variant), golden, variant)
        verified.append(Verified(variant.name, difference, variant.evidence.tolerance, obstacle))
    return verified
