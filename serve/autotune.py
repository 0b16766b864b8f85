"""Time an artifact's variants on a host unlike the export's, in a few seconds, and choose the fastest.

Which variant is fastest depends on the processor's instructions and cores, or the GPU, so the manifest's choice may be
wrong on another host. A variant takes part only if its golden cases still match torch's outputs there.
"""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from tuneport.host import Host
from tuneport.runtime.scheduler import pack_batches
from tuneport.schema.artifact import Device, GoldenCase, Manifest, Variant
from tuneport.schema.loading import check_files, load_golden, load_manifest

from . import logs
from .devices import choose_variant
from .settings import Settings

if TYPE_CHECKING:
    from tuneport.runtime.runner import ModelRunner

SECONDS_EACH = 0.7
"""Time for each variant."""
ROUNDS = 3
COPIES = 4
"""How often the golden cases' rows are repeated, to fill batches."""


def select_variant_for_host(folder: Path, settings: Settings) -> str | None:
    """Return the name of the variant that serves on this host, or None where the manifest's choice stands.

    It stands on a host like the export's, for families that are not autotuned, and where there is nothing to choose
    from. Raises ArtifactError for a damaged file, EngineError if no variant runs here.
    """
    manifest = load_manifest(folder)
    choice = choose_variant(manifest, settings)
    if choice.because:
        logs.log("variant selected", serves=choice.variant.name, because=choice.because)
    chosen = choice.variant.name if choice.because else None
    device = choice.variant.execution.device
    variants = [variant for variant in manifest.variants if variant.execution.device == device]
    if len(variants) < 2 or not is_unlike(Host.here(), manifest.host, device):
        return chosen
    # Imported here because BentoML's supervisor runs this code and seldom gets this far.
    from tuneport.runtime.loading import family_of

    if not family_of(manifest.task).is_autotuned:
        return chosen
    speeds = _measure(folder, manifest, variants, settings)
    best = max(speeds, key=speeds.__getitem__) if speeds else choice.variant.name
    logs.log(
        "autotuned",
        because="the artifact was timed on another host",
        timed_on=manifest.host.model_dump(include={"cpu", "cores", "instructions", "gpus"}),
        rows_per_s={name: round(speed, 1) for name, speed in speeds.items()},
        manifest_default=manifest.default_variant,
        serves=best,
    )
    return best


def is_unlike(here: Host, there: Host, device: Device = "cpu") -> bool:
    """Tell whether timings of the other host say little about this one."""
    if device != "cpu":
        if here.gpus and there.gpus:
            return not here.gpus[0].is_like(there.gpus[0])
        return here.gpus != there.gpus
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
            threads, options = settings.worker_threads(), settings.device_options()
            runner = open_runner(folder, manifest, variant, threads=threads, device_options=options)
            check_golden(runner, golden, variant)
            speeds[variant.name] = rows_per_s(runner, golden)
        except Exception as error:  # of the engine, which raises exceptions of any kind: others may run
            logs.log("variant skipped", variant=variant.name, reason=str(error)[:200])
    return speeds
