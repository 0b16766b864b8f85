"""Time an artifact's variants on a host unlike the export's, in a few seconds, and choose the fastest.

Which variant is fastest depends on the processor's instructions and cores, or the GPU, so the manifest's choice may be
wrong on another host. A variant takes part only if its golden cases still match torch's outputs there.
"""

import logging
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from tuneport.host import Host
from tuneport.runtime.scheduler import pack_batches
from tuneport.schema.artifact import Device, GoldenCase, Manifest, Variant
from tuneport.schema.loading import check_files, load_golden, load_manifest

from . import logs
from .settings import Settings

if TYPE_CHECKING:
    from tuneport.runtime.runner import ModelRunner

OTHER_PROCESSOR = "variant for another processor"
SATURATES = "sums of int8 products saturate on this processor, which has no VNNI"
SECONDS_EACH = 0.7
"""Time for each variant."""
ROUNDS = 3
COPIES = 4
"""How often the golden cases' rows are repeated, to fill batches."""


def select_variant_for_host(folder: Path, settings: Settings) -> str | None:
    """Return the name of the fastest variant, or None where the manifest's choice stands.

    It stands on a host like the export's, for families that are not autotuned, and where there is nothing to choose
    from; but a variant whose int8 products saturate here is served only if there is no other. Raises ArtifactError for
    a damaged file.
    """
    manifest, here = load_manifest(folder), Host.here()
    default = manifest.variant()
    device = settings.device or default.execution.device
    variants = [variant for variant in manifest.variants if variant.execution.device == device]
    sound = [variant for variant in variants if not variant.execution.saturates_on(here)]
    must_change = default in variants and default not in sound and bool(sound)
    if len(variants) < 2 or not (must_change or is_unlike(here, manifest.host, device)):
        return None
    # Imported here because BentoML's supervisor runs this code and seldom gets this far.
    from tuneport.runtime.loading import family_of

    if not family_of(manifest.task).is_autotuned:
        fastest = max(sound or variants, key=lambda variant: variant.evidence.timing.texts_per_s)
        return fastest.name if must_change else None
    speeds = _measure(folder, manifest, sound or variants, settings)
    best = max(speeds, key=speeds.__getitem__) if speeds else default.name
    logs.log(
        "autotuned",
        because="the artifact was timed on another host" if is_unlike(here, manifest.host, device) else SATURATES,
        timed_on=manifest.host.model_dump(include={"cpu", "cores", "instructions", "gpus"}),
        rows_per_s={name: round(speed, 1) for name, speed in speeds.items()},
        manifest_default=default.name,
        serves=best,
    )
    return best


def warn_of_other_processor(folder: Path, name: str | None) -> None:
    """Log a warning if a variant, by default the manifest's, has int8 weights for another kind of processor."""
    here, variant = Host.here(), load_manifest(folder).variant(name)
    execution = variant.execution
    if execution.saturates_on(here):
        remedy = "export with --instruction-set avx2, or serve another variant"
        logs.log(OTHER_PROCESSOR, logging.WARNING, variant=variant.name, problem=SATURATES, remedy=remedy)
    elif execution.reduce_range and not here.int8_saturates:
        problem = "its int8 weights have 7 bits for processors without VNNI, and this one has room for 8"
        remedy = "export with --instruction-set vnni"
        logs.log(OTHER_PROCESSOR, logging.WARNING, variant=variant.name, problem=problem, remedy=remedy)


def is_unlike(here: Host, there: Host, device: Device = "cpu") -> bool:
    """Tell whether timings of the other host say little about this one."""
    if device != "cpu":
        return here.gpus[:1] != there.gpus[:1]
    return here.cores != there.cores or here.instructions != there.instructions


def rows_per_s(runner: "ModelRunner", golden: list[GoldenCase]) -> float:
    """Return the rows a second of the golden cases, run in serving's batches on all streams; the best of the rounds."""
    windows = runner.task.encode([runner.task.parse_input(case.input) for case in golden])
    rows = [row for rows in windows for row in rows] * COPIES
    batches = [[rows[i] for i in batch] for batch in pack_batches([*map(len, rows)], runner.limits)]
    best = 0.0
    with ThreadPoolExecutor(runner.streams) as pool:
        list(pool.map(runner.run_batch, [batches[0]] * runner.streams))  # warm-up
        for _ in range(ROUNDS):
            began, done = time.perf_counter(), 0
            while done == 0 or time.perf_counter() - began < SECONDS_EACH / ROUNDS:
                list(pool.map(runner.run_batch, batches))
                done += len(rows)
            best = max(best, done / (time.perf_counter() - began))
    return best


def _measure(folder: Path, manifest: Manifest, variants: list[Variant], settings: Settings) -> dict[str, float]:
    """Return the speed of each variant that runs here and matches its golden cases."""
    from tuneport.runtime.golden import check_golden
    from tuneport.runtime.loading import open_runner

    golden = load_golden(folder)
    speeds: dict[str, float] = {}
    for variant in variants:
        check_files(folder, manifest, variant.name)
        try:
            runner = open_runner(folder, manifest, variant, threads=settings.worker_threads())
            check_golden(runner, golden, variant)
            speeds[variant.name] = rows_per_s(runner, golden)
        except Exception as error:  # of the engine, which raises exceptions of any kind: others may run
            logs.log("variant skipped", variant=variant.name, reason=str(error)[:200])
    return speeds
