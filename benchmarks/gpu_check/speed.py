"""Step `speed`: every variant against torch on fixed shapes and on mixed lengths, and what of it misses a floor.

    python -m tuneport.stages.benchmarks.gpu_check.speed ARTIFACT CHECKPOINT DEVICE RESULT

Torch runs in fp32 (the reference of the outputs), in fp16 with SDPA (`eager`; on a CPU fp32), and compiled by
torch.compile, for fixed shapes in the mode `reduce-overhead`, which uses CUDA graphs. Everything includes the copies to
the device and back. A variant whose outputs differ from the reference is named, and the step fails.
"""

import itertools
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tuneport.errors import TuneportError
from tuneport.runtime.batch import EncodedInput
from tuneport.runtime.loading import open_runner
from tuneport.runtime.runner import ModelRunner
from tuneport.schema.artifact import Variant
from tuneport.schema.base import Frozen
from tuneport.schema.loading import load_golden, load_manifest
from tuneport.schema.torch_setup import TorchDevice, TorchSetup
from tuneport.stages.export.benchmark import BenchmarkTarget, benchmark
from tuneport.stages.export.reference import TorchModel

from ..baselines import open_baseline
from ..config import BenchConfig
from ..engine import select_device
from .config import FLOORS, MEAN_TOKENS, MIXED, SCALES, Floor, Scale

RunBatch = Callable[[Sequence[EncodedInput]], Any]
EAGER, COMPILED = "eager", "compiled"
CUDNN = "eager, attention in cuDNN"
"""Of fixed shapes, `eager` is the faster one with and without it."""
WARM_UPS, LEAST_RUNS = 3, 5
MIXED_ROUNDS = 2
SEED = 0
SPREAD = 0.6
"""Standard deviation of the logarithm of mixed lengths: short texts and a few long ones."""
SHORTEST, LONGEST = 6, 128
TOLERANCE_FACTOR, MIN_TOLERANCE = 4.0, 0.2
"""Random tokens are less like the data than the golden cases that a variant's tolerance is measured on."""
MIN_AGREEMENT = 0.99


class WorkloadResult(Frozen):
    """What was measured on one workload."""

    workload: str
    unit: str
    """`ms` a batch, lower is better; or `texts/s`."""
    values: dict[str, float]
    """By target: torch's `eager` and `compiled`, and the variants."""
    factors: dict[str, dict[str, float]]
    """Baseline → variant → how many times as fast it is."""


class FloorResult(Frozen):
    """A floor, and what the fastest variant reached."""

    floor: Floor
    variant: str
    factor: float
    is_met: bool


class SpeedReport(Frozen):
    """What the step writes."""

    name: str
    device: TorchDevice
    baselines: dict[str, TorchSetup]
    compile_s: dict[str, float]
    """Workload → seconds of torch.compile, which are in no timing."""
    mean_tokens: float
    """Of the mixed lengths."""
    default_variant: str
    workloads: tuple[WorkloadResult, ...]
    differences: dict[str, float | None]
    """Variant → the largest difference of an output from the reference; None if one is not finite."""
    wrong: dict[str, str]
    """Variant → why its outputs are wrong."""
    floors: tuple[FloorResult, ...]

    @property
    def is_passed(self) -> bool:
        """Whether no variant is wrong and every floor is met."""
        return not self.wrong and all(floor.is_met for floor in self.floors)


@dataclass(frozen=True)
class Rows:
    """Makes rows of any length from real tokens."""

    first: int
    last: int
    body: Sequence[int]

    @classmethod
    def of_golden(cls, runner: ModelRunner, artifact: Path) -> "Rows":
        """Take the tokens of the golden cases."""
        task = runner.task
        windows = task.encode([task.parse_input(case.input) for case in load_golden(artifact)])
        rows = [row for each in windows for row in each if len(row) > 2]
        return cls(rows[0].ids[0], rows[0].ids[-1], [token for row in rows for token in row.ids[1:-1]])

    def make(self, length: int, offset: int) -> EncodedInput:
        """Return a row of `length` tokens, special tokens included; `offset` decides which."""
        body = [self.body[(offset * 7 + i) % len(self.body)] for i in range(length - 2)]
        return EncodedInput([self.first, *body, self.last], [0] * length, False)


def mixed_lengths(count: int, longest: int) -> list[int]:
    """Return `count` seeded lengths with a mean of about `MEAN_TOKENS`."""
    generator = np.random.default_rng(SEED)
    drawn = generator.lognormal(0.0, SPREAD, count)
    for _ in range(20):  # cutting lowers the mean
        lengths = np.clip(np.round(drawn), SHORTEST, longest)
        drawn = drawn * min(MEAN_TOKENS, 0.8 * longest) / lengths.mean()
    return [int(length) for length in np.clip(np.round(drawn), SHORTEST, longest)]


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
            baselines={EAGER: eager.setup} | ({COMPILED: _compiled_setup(eager)} if scale.compiles else {}),
            compile_s=compile_s,
            mean_tokens=round(float(np.mean([len(row) for row in mixed])), 1),
            default_variant=manifest.default_variant,
            workloads=tuple(workloads),
            differences=differences,
            wrong=wrong,
            floors=check_floors(workloads) if device == "cuda" else (),
        )


def compare(
    reference: TorchModel,
    runners: Mapping[str, ModelRunner],
    variants: Sequence[Variant],
    batches: Sequence[Sequence[EncodedInput]],
) -> tuple[dict[str, float | None], dict[str, str]]:
    """Return each variant's largest difference from the reference, and why those are wrong that are."""
    expected = [_outputs(reference.run_batch, batch) for batch in batches]
    differences: dict[str, float | None] = {}
    wrong: dict[str, str] = {}
    for variant in variants:
        found = [_outputs(runners[variant.name].run_batch, batch) for batch in batches]
        if not all(np.isfinite(each).all() for each in found):
            differences[variant.name], wrong[variant.name] = None, "some outputs are not finite"
            continue
        pairs = list(zip(found, expected, strict=True))
        largest = max(float(np.abs(ours - torchs).max()) for ours, torchs in pairs)
        agreement = float(np.mean([_agreement(ours, torchs) for ours, torchs in pairs]))
        limit = max(MIN_TOLERANCE, TOLERANCE_FACTOR * variant.evidence.tolerance)
        differences[variant.name] = round(largest, 7)
        if largest > limit or agreement < MIN_AGREEMENT:
            wrong[variant.name] = f"|Δ| {largest:.3g} (limit {limit:.3g}), agreement {agreement:.1%}"
    return differences, wrong


def time_shape(
    name: str,
    batch: Sequence[EncodedInput],
    eager: TorchModel,
    runners: Mapping[str, ModelRunner],
    scale: Scale,
    compile_s: dict[str, float],
) -> WorkloadResult:
    """Return the median latency of a batch, of every target in turn."""
    targets: dict[str, RunBatch] = {EAGER: eager.run_batch, CUDNN: _with_cudnn(eager).run_batch}
    if scale.compiles:
        compiled = eager.compiled_for_shapes()
        started = time.perf_counter()
        for _ in range(WARM_UPS):  # reduce-overhead records its CUDA graph in the second run
            compiled.run_batch(batch)
        compile_s[name] = round(time.perf_counter() - started, 1)
        targets[COMPILED] = compiled.run_batch
    targets |= {variant: runner.run_batch for variant, runner in runners.items()}
    values = {target: _median_ms(run_batch, batch, scale.seconds) for target, run_batch in targets.items()}
    values[EAGER] = min(values[EAGER], values.pop(CUDNN))
    factors = {
        baseline: {variant: round(values[baseline] / values[variant], 3) for variant in runners}
        for baseline in (EAGER, COMPILED)
        if baseline in values
    }
    return WorkloadResult(workload=name, unit="ms", values=values, factors=factors)


def time_mixed(
    rows: Sequence[EncodedInput],
    eager: TorchModel,
    runners: Mapping[str, ModelRunner],
    variants: Sequence[Variant],
    scale: Scale,
    compile_s: dict[str, float],
) -> WorkloadResult:
    """Return the throughput on mixed lengths, sorted, of every target with its own best size of batches."""
    targets = {EAGER: BenchmarkTarget.of_torch(eager, has_batch_choice=True)}
    if scale.compiles:
        compiled = eager.with_setup(_compiled_setup(eager))
        compiled.compile_on(rows)
        compile_s[MIXED] = compiled.compile_s or 0.0
        targets[COMPILED] = BenchmarkTarget.of_torch(compiled, has_batch_choice=True)
    for variant in variants:
        execution = variant.execution
        targets[variant.name] = BenchmarkTarget.of_runner(runners[variant.name], execution.device, execution.precision)
    results = benchmark(targets, rows, rounds=MIXED_ROUNDS, singles=1)
    values = {name: result.timing.texts_per_s for name, result in results.items()}
    factors = {
        baseline: {name: round(values[name] / values[baseline], 3) for name in runners}
        for baseline in (EAGER, COMPILED)
        if baseline in values
    }
    return WorkloadResult(workload=MIXED, unit="texts/s", values=values, factors=factors)


def check_floors(workloads: Sequence[WorkloadResult], floors: Sequence[Floor] = FLOORS) -> tuple[FloorResult, ...]:
    """Compare the fastest variant of each workload with its floors; a floor without a measurement is missed."""
    by_name = {workload.workload: workload for workload in workloads}
    results = []
    for floor in floors:
        workload = by_name.get(floor.workload)
        factors = workload.factors.get(floor.against, {}) if workload else {}
        variant = max(factors, key=factors.__getitem__, default="")
        factor = factors.get(variant, 0.0)
        results.append(FloorResult(floor=floor, variant=variant, factor=factor, is_met=factor >= floor.factor))
    return tuple(results)


def _with_cudnn(eager: TorchModel) -> TorchModel:
    return eager.with_setup(eager.setup.model_copy(update={"cudnn_attention": True}))


def _compiled_setup(eager: TorchModel) -> TorchSetup:
    return eager.setup.model_copy(update={"compiled": True})


def _median_ms(
    run_batch: Callable[[Sequence[EncodedInput]], Any], batch: Sequence[EncodedInput], seconds: float
) -> float:
    for _ in range(WARM_UPS):
        run_batch(batch)
    times_ms: list[float] = []
    ends_at = time.perf_counter() + seconds
    while len(times_ms) < LEAST_RUNS or time.perf_counter() < ends_at:
        started = time.perf_counter()
        run_batch(batch)
        times_ms.append((time.perf_counter() - started) * 1000)
    return round(float(np.median(times_ms)), 4)


def _outputs(run_batch: RunBatch, batch: Sequence[EncodedInput]) -> Any:
    """Return the first output of a batch, float32 (rows, values), of a variant's runner or of torch."""
    found = run_batch(batch)
    if isinstance(found, dict):  # torch's, stacked
        return np.asarray(next(iter(found.values())))
    return np.stack([next(iter(row.values())) for row in found])


def _agreement(ours: Any, torchs: Any) -> float:
    """Return the share of rows with the reference's label; a tie of the reference agrees with either."""
    best = torchs.max(-1)
    chosen = np.take_along_axis(torchs, ours.argmax(-1)[..., None], -1)[..., 0]
    return float(np.mean(best - chosen <= MIN_TOLERANCE))


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
