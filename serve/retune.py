"""On a machine unlike the one that timed the artifact: time its variants again, in a few seconds, and take the fastest.

Which variant is fastest depends on the processor's instructions and the cores at hand, so the manifest's choice may be
wrong elsewhere. Only what still answers as torch does takes part.
"""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from export.files import EngineError, GateError
from export.machine import Machine
from export.manifest import GoldenCase, check_files, load_golden, load_manifest
from serve import logs
from serve.plan import plan
from serve.settings import Settings

if TYPE_CHECKING:
    from serve.model import Model

SECONDS_EACH = 0.7
TURNS = 3


def fastest_if_unlike(folder: Path, settings: Settings) -> str | None:
    """Return the name of the fastest variant; None where the manifest's choice stands.

    It stands on the machine that made the artifact or one like it, for a model that writes, and where there is nothing
    to choose from. Raises ArtifactError for a damaged file.
    """
    manifest = load_manifest(folder)
    default = manifest.variant()
    rivals = [each for each in manifest.variants if each.device == (settings.device or default.device)]
    if len(rivals) < 2 or manifest.processing.generation or not is_unlike(Machine.here(), manifest.machine):
        return None
    from serve.model import check_golden, open_model  # BentoML's supervisor gets here; most often that was all it needs

    golden = load_golden(folder)
    speeds: dict[str, float] = {}
    for variant in rivals:
        check_files(folder, manifest, variant.name)
        try:
            model = open_model(folder, manifest, variant, threads=settings.threads_each())
            check_golden(model, golden, variant)
        except (EngineError, GateError) as error:
            logs.log("passed over", variant=variant.name, reason=error.problem)
            continue
        speeds[variant.name] = rows_per_s(model, golden)
    best = max(speeds, key=speeds.__getitem__) if speeds else default.name
    logs.log(
        "measured again",
        because="the artifact was timed on another machine",
        there=manifest.machine.model_dump(include={"cpu", "cores", "instructions"}),
        rows_per_s={name: round(speed, 1) for name, speed in speeds.items()},
        manifest_says=default.name,
        serves=best,
    )
    return best


def is_unlike(here: Machine, there: Machine) -> bool:
    """Tell whether figures of the other machine say little about this one."""
    return here.cores != there.cores or here.instructions != there.instructions


def rows_per_s(model: "Model", golden: list[GoldenCase]) -> float:
    """Run the golden cases' rows in serving's batches on all streams for a moment; the best of some turns."""
    windows = model.task.encode([model.task.read(case.input) for case in golden])
    rows = [row for each in windows for row in each] * 4
    batches = [[rows[i] for i in batch] for batch in plan([*map(len, rows)], model.budget)]
    best = 0.0
    with ThreadPoolExecutor(model.streams) as pool:
        list(pool.map(model.run_batch, [batches[0]] * model.streams))
        for _ in range(TURNS):
            began, done = time.perf_counter(), 0
            while done == 0 or time.perf_counter() - began < SECONDS_EACH / TURNS:
                list(pool.map(model.run_batch, batches))
                done += len(rows)
            best = max(best, done / (time.perf_counter() - began))
    return best
