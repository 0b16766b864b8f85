"""Step `speed`: every variant against torch on fixed shapes and on mixed lengths, and what of it misses a floor.

    python -m tuneport.stages.benchmarks.gpu_check.speed ARTIFACT CHECKPOINT DEVICE RESULT

Torch runs in fp32 (the reference of the outputs), in fp16 with SDPA (`eager`; on a CPU fp32), and compiled by
torch.compile, for fixed shapes in the mode `reduce-overhead`, which uses CUDA graphs. Everything includes the copies to
the device and back. A variant whose outputs differ from the reference is named, and the step fails.
"""

import itertools
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tuneport.errors import TuneportError
from tuneport.runtime.loading import open_runner
from tuneport.schema.loading import load_manifest
from tuneport.schema.torch_setup import TorchDevice, TorchSetup

from ..baselines import open_baseline
from ..config import BenchConfig
from ..engine import select_device
from .config import COMPILED, EAGER, SCALES
from .outputs import compare
from .rows import LONGEST, Rows, mixed_lengths
from .speed_report import SpeedReport, WorkloadResult, check_floors
from .workloads import compiled_setup, time_mixed, time_shape


def measure_speed(artifact: Path, checkpoint: Path, device: TorchDevice) -> Iterator[SpeedReport]:
    """Compare and time every variant of the device; floors are those of a GPU.

    Yields the report after each workload, so that a step that runs out of time keeps what it measured.
    """
    scale, manifest = SCALES[device], load_manifest(artifact)
    _, variants, _ = select_device(manifest, device)
    reference = open_baseline(manifest, BenchConfig(artifact=artifact, checkpoint=checkpoint)).load_reference(device)
    eager = reference.with_setup(TorchSetup(device=device, precision="fp16" if device == "cuda" else "fp32"))
    runners = {variant.name: open_runner(artifact, manifest, variant) for variant in variants}
    rows = Rows.of_golden(next(iter(runners.values())), artifact)
    longest = min(LONGEST, manifest.processing.max_length)
    shapes = [(count, min(length, longest)) for count, length in scale.shapes]
    batches = {f"{count} x {length}": [rows.make(length, i) for i in range(count)] for count, length in shapes}
    mixed = [rows.make(length, i) for i, length in enumerate(mixed_lengths(scale.mixed_rows, longest))]
    differences, wrong = compare(reference, runners, variants, [*batches.values(), mixed[: 4 * scale.bench_inputs]])
    compile_s: dict[str, float] = {}
    measurements = itertools.chain(
        (time_shape(name, batch, eager, runners, scale, compile_s) for name, batch in batches.items()),
        (time_mixed(rows, eager, runners, variants, scale, compile_s) for rows in [mixed]),
    )
    workloads: list[WorkloadResult] = []
    for measured in measurements:
        workloads.append(measured)
        yield SpeedReport(
            name=manifest.name,
            device=device,
            baselines={EAGER: eager.setup} | ({COMPILED: compiled_setup(eager)} if scale.compiles else {}),
            compile_s=compile_s,
            mean_tokens=round(float(np.mean([len(row) for row in mixed])), 1),
            default_variant=manifest.default_variant,
            workloads=tuple(workloads),
            differences=differences,
            wrong=wrong,
            floors=check_floors(workloads) if device == "cuda" else (),
        )


def main() -> None:
    """Measure, write the result, and exit with 1 if a variant is wrong or misses a floor."""
    artifact, checkpoint, device, result = sys.argv[1:]
    report: SpeedReport | None = None
    try:
        for report in measure_speed(Path(artifact), Path(checkpoint), "cuda" if device == "cuda" else "cpu"):
            Path(result).write_text(report.model_dump_json(), encoding="utf-8")
    except TuneportError as error:
        sys.exit(f"error: {error}")
    assert report, "there is at least one workload"
    for name, why in report.wrong.items():
        sys.stdout.write(f"{name} is wrong: {why}\n")
    for each in report.floors:
        if not each.is_met:
            floor = each.floor
            sys.stdout.write(
                f"missed: {floor.workload}: {each.factor:.2f} x torch {floor.against}, the floor is {floor.factor:g} x "
                f"({each.variant or 'no variant'})\n"
            )
    sys.exit(0 if report.is_passed else 1)


if __name__ == "__main__":
    main()
