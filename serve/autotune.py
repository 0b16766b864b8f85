"""Time an artifact's variants on a host unlike the export's, in a few seconds, and choose the fastest.

Which variant is fastest depends on the processor's instructions and cores, or the GPU, so the manifest's choice may be
wrong on another host. A variant takes part only if its golden cases still match torch's outputs there.
"""

import json
import logging
import math
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tuneport.host import Host
from tuneport.runtime.availability import fit_gpus, obstacle
from tuneport.runtime.scheduler import candidate_limits, fastest_limits, pack_batches
from tuneport.schema.artifact import Device, GoldenCase, Manifest, Variant
from tuneport.schema.loading import check_files, load_golden, load_manifest

from . import logs
from .devices import choose_variant
from .settings import Settings, read_settings
from .speed_cache import Speed, SpeedCache

if TYPE_CHECKING:
    from tuneport.runtime.runner import ModelRunner

OTHER_PROCESSOR = "variant for another processor"
SATURATES = "sums of int8 products saturate on this processor, which has no VNNI"
SECONDS_EACH = 0.7
"""Time for each variant."""
ROUNDS = 3
COPIES = 4
"""How often the golden cases' rows are repeated, to fill batches."""


@dataclass(frozen=True)
class HostOverrides:
    """What serves here instead of the manifest's default variant and token limit; None where those stand."""

    variant: str | None = None
    max_batch_tokens: int | None = None


def select_for_host(folder: Path, settings: Settings) -> HostOverrides:
    """Choose the variant that serves on this host and, on a GPU, its token limit.

    The manifest's choice stands on a host like the export's, for families that are not autotuned, and where there is
    nothing to choose from; of a combined artifact, if the variants for the device were measured side by side. But a
    variant whose int8 products saturate here serves only if there is no other. Raises ArtifactError for a damaged file,
    EngineError if no variant runs here.
    """
    manifest, here = load_manifest(folder), Host.here()
    choice = choose_variant(manifest, settings)
    if choice.because:
        logs.log("variant selected", serves=choice.variant.name, because=choice.because)
    chosen = choice.variant.name if choice.because else None
    device = choice.variant.execution.device
    variants = [
        each
        for each in manifest.variants
        if (each.execution.device == "cpu") == (device == "cpu") and settings.device in (None, each.execution.device)
    ]
    if device != "cpu":  # workers are on the GPUs that fit the choice, so that another variant must fit the same ones
        gpus = fit_gpus(choice.variant.execution, here.gpus)
        variants = [each for each in variants if fit_gpus(each.execution, here.gpus) == gpus]
        here = here.model_copy(update={"gpus": gpus})
    sound = [variant for variant in variants if not variant.execution.saturates_on(here)]
    must_change = choice.variant not in sound and bool(sound)
    has_choice = len(variants) > 1 or device != "cpu"
    doubt = _doubt(manifest, choice.variant, variants, here)
    if not must_change and not (has_choice and doubt):
        return HostOverrides(chosen)
    # Imported here because BentoML's supervisor runs this code and seldom gets this far.
    from tuneport.runtime.loading import family_of

    if not family_of(manifest.task).is_autotuned:
        best = manifest.best([variant.name for variant in sound])
        return HostOverrides(best.name if best and must_change else chosen)
    measure = _measure if device == "cpu" else measure_apart
    able = [each for each in sound or variants if obstacle(each.execution, here) is None]
    kept = SpeedCache.of(manifest, able, here, settings) if device != "cpu" else None
    known = kept.read() if kept else None
    speeds = known or measure(folder, manifest, able, settings)
    if kept and known is None:
        kept.write(speeds)
    if not speeds:
        return HostOverrides(choice.variant.name)
    fastest = max(speeds, key=lambda name: speeds[name].rows_per_s)
    timed_on = manifest.part_of(choice.variant.name).host
    logs.log(
        "autotuned",
        because=doubt or SATURATES,
        timed_on=timed_on.model_dump(include={"cpu", "cores", "instructions", "gpus"}),
        rows_per_s={name: round(speed.rows_per_s, 1) for name, speed in speeds.items()},
        manifest_default=manifest.default_variant,
        serves=fastest,
        max_batch_tokens=speeds[fastest].max_batch_tokens,
        timed="now" if known is None else "at an earlier start",
    )
    return HostOverrides(fastest, speeds[fastest].max_batch_tokens)


def _doubt(manifest: Manifest, chosen: Variant, variants: list[Variant], here: Host) -> str | None:
    """Return why the manifest's timings do not tell which of some variants is the fastest here; None if they do."""
    part = manifest.part_of(chosen.name)
    if is_unlike(here, part.host, chosen.execution.device):
        return "the artifact was timed on another host"
    if not {variant.name for variant in variants} <= {variant.name for variant in part.variants}:
        return "the variants were not timed side by side"
    return None


def warn_of_other_processor(variant: Variant) -> None:
    """Log a warning if a variant has int8 weights for another kind of processor."""
    here, execution = Host.here(), variant.execution
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
        if here.gpus and there.gpus:
            return not here.gpus[0].is_like(there.gpus[0])
        return here.gpus != there.gpus
    return here.cores != there.cores or here.instructions != there.instructions


def best_speed(runner: "ModelRunner", golden: list[GoldenCase], device: Device, settings: Settings) -> Speed:
    """Return a runner's throughput on the golden cases; on a GPU with the best token limit, unless it is set."""
    if device == "cpu" or settings.max_batch_tokens or runner.single_row_batches:
        return Speed(rows_per_s(runner, golden), None)
    candidates, speeds = candidate_limits(runner.limits, device), []
    for limits in candidates:
        runner.limits = limits
        speeds.append(rows_per_s(runner, golden, min_tokens=2 * limits.tokens))
    return Speed(max(speeds), fastest_limits(candidates, speeds).tokens)


def rows_per_s(runner: "ModelRunner", golden: list[GoldenCase], min_tokens: int = 0) -> float:
    """Return the rows a second of the golden cases, run in serving's batches on all streams; the best of the rounds.

    The cases are repeated up to `min_tokens`, because a batch of a GPU holds many times as many.
    """
    windows = runner.task.encode([runner.task.parse_input(case.input) for case in golden])
    once = [row for rows in windows for row in rows]
    rows = once * max(COPIES, math.ceil(min_tokens / sum(map(len, once))))
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


def measure_apart(folder: Path, manifest: Manifest, variants: list[Variant], settings: Settings) -> dict[str, Speed]:
    """Return the speed of each variant, measured in a process of its own.

    The service's supervisor lives as long as its workers, and a process that has used a GPU keeps memory there.
    """
    sources = str(Path(str(sys.modules["tuneport"].__file__)).parents[1])
    paths = os.pathsep.join([sources, *filter(None, [os.environ.get("PYTHONPATH")])])
    names = [variant.name for variant in variants]
    done = subprocess.run(
        [sys.executable, "-P", "-m", "tuneport.stages.serve.autotune", str(folder), *names],
        env={**os.environ, "PYTHONPATH": paths},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        logs.log("autotuning failed", logging.WARNING, exit_code=done.returncode, variants=names)
        return {}
    return {name: Speed(**speed) for name, speed in json.loads(done.stdout.splitlines()[-1]).items()}


def _measure(folder: Path, manifest: Manifest, variants: list[Variant], settings: Settings) -> dict[str, Speed]:
    """Return the speed of each variant that runs here and matches its golden cases."""
    from tuneport.runtime.golden import check_golden
    from tuneport.runtime.loading import open_runner

    golden = load_golden(folder)
    speeds: dict[str, Speed] = {}
    for variant in variants:
        check_files(folder, manifest, variant.name)
        try:
            threads, options = settings.worker_threads(), settings.device_options()
            runner = open_runner(folder, manifest, variant, threads=threads, device_options=options)
            check_golden(runner, golden, variant)
            speeds[variant.name] = best_speed(runner, golden, variant.execution.device, settings)
        except Exception as error:  # of the engine, which raises exceptions of any kind: others may run
            logs.log("variant skipped", variant=variant.name, reason=str(error)[:200])
    return speeds


def main() -> None:
    """Print the speeds of an artifact's variants as JSON: the process of `measure_apart`."""
    logs.set_up()
    folder, names = Path(sys.argv[1]), sys.argv[2:]
    manifest = load_manifest(folder)
    speeds = _measure(folder, manifest, [manifest.variant(name) for name in names], read_settings())
    sys.stdout.write(json.dumps({name: asdict(speed) for name, speed in speeds.items()}) + "\n")


if __name__ == "__main__":
    main()
