"""Step `speed`: every variant against torch on fixed shapes and on mixed lengths, and what of it misses a floor.

    python -m tuneport.stages.benchmarks.gpu_check.speed ARTIFACT CHECKPOINT DEVICE FLOORS RESULT

Torch runs in fp32 (the reference of the outputs), in fp16 with SDPA (`eager`; on a CPU fp32), and compiled by
torch.compile, for fixed shapes in the mode `reduce-overhead`, which uses CUDA graphs. Everything includes the copies to
the device and back. A variant whose outputs differ from the reference is named, and the step fails. Compiling takes
longest and comes last; the result is written after each workload. FLOORS is `floors` or `no-floors`: floors are of the
fastest variant of a model, and an artifact may lack it.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tuneport.errors import TuneportError
from tuneport.runtime.batch import EncodedInput
from tuneport.runtime.loading import open_runner
from tuneport.runtime.runner import ModelRunner
from tuneport.schema.artifact import Manifest, Variant
from tuneport.schema.loading import load_manifest
from tuneport.schema.torch_setup import TorchDevice, TorchSetup
from tuneport.stages.export.reference import TorchModel

from ..baselines import open_baseline
from ..command import one_line_errors
from ..config import BenchConfig
from ..engine import select_device
from .config import COMPILED, EAGER, MIXED, SCALES, WITH_FLOORS, Scale
from .outputs import compare
from .rows import LONGEST, Rows, mixed_lengths
from .speed_report import SpeedReport, WorkloadResult, check_floors
from .steps import write_result
from .workloads import compile_shape, compiled_setup, time_mixed, time_shape


@dataclass
class SpeedMeter:
    """Times the variants of one artifact, and keeps what was measured so far."""

    manifest: Manifest
    device: TorchDevice
    eager: TorchModel
    variants: tuple[Variant, ...]
    runners: Mapping[str, ModelRunner]
    batches: Mapping[str, Sequence[EncodedInput]]
    """Of fixed shapes, by the name of the workload."""
    mixed: Sequence[EncodedInput]
    differences: Mapping[str, float | None]
    wrong: Mapping[str, str]
    has_floors: bool = False
    workloads: dict[str, WorkloadResult] = field(default_factory=dict)
    mixed_tokens: dict[str, int] = field(default_factory=dict)
    """The best size of a batch of mixed lengths, by target."""
    compile_s: dict[str, float] = field(default_factory=dict)
    not_compiled: dict[str, str] = field(default_factory=dict)

    @property
    def scale(self) -> Scale:
        """How much is done on the device."""
        return SCALES[self.device]

    def measure(self) -> Iterator[SpeedReport]:
        """Yield the report when outputs are compared, and after each workload."""
        yield self.report()
        for name, batch in self.batches.items():
            self.workloads[name] = time_shape(name, batch, self.eager, self.runners, self.scale.seconds)
            yield self.report()
        self.workloads[MIXED], self.mixed_tokens = time_mixed(self.mixed, self.eager, self.runners, self.variants)
        yield self.report()
        for name in (*self.batches, MIXED) if self.scale.compiles else ():
            try:
                self._compile(name)
            except TuneportError as error:
                self.not_compiled[name] = error.problem
            yield self.report()

    def _compile(self, name: str) -> None:
        """Add torch.compile to a workload."""
        if name in self.batches:
            found = compile_shape(self.workloads[name], self.batches[name], self.eager, self.scale.seconds)
            self.workloads[name], self.compile_s[name] = found
            return
        compiled = self.eager.with_setup(compiled_setup(self.eager))
        compiled.compile_on(self.mixed)
        self.compile_s[name] = compiled.compile_s or 0.0
        models = (self.eager, self.runners, self.variants, compiled)
        self.workloads[name], _ = time_mixed(self.mixed, *models, known=self.mixed_tokens)

    def report(self) -> SpeedReport:
        """Return what was measured so far, with the floors if it has them."""
        workloads = tuple(self.workloads.values())
        return SpeedReport(
            name=self.manifest.name,
            device=self.device,
            baselines={EAGER: self.eager.setup} | ({COMPILED: compiled_setup(self.eager)} if self.compile_s else {}),
            compile_s=self.compile_s,
            not_compiled=self.not_compiled,
            mean_tokens=round(float(np.mean([len(row) for row in self.mixed])), 1),
            default_variant=self.manifest.default_variant,
            workloads=workloads,
            differences=dict(self.differences),
            wrong=dict(self.wrong),
            floors=check_floors(workloads) if self.has_floors else (),
        )


def open_meter(artifact: Path, checkpoint: Path, device: TorchDevice) -> SpeedMeter:
    """Open torch and every variant of the device, and compare their outputs."""
    scale, manifest = SCALES[device], load_manifest(artifact)
    _, variants, _ = select_device(manifest, device)
    reference = open_baseline(manifest, BenchConfig(artifact=artifact, checkpoint=checkpoint)).load_reference(device)
    runners = {variant.name: open_runner(artifact, manifest, variant) for variant in variants}
    rows = Rows.of_golden(next(iter(runners.values())), artifact)
    longest = min(LONGEST, manifest.processing.max_length)
    shapes = [(count, min(length, longest)) for count, length in scale.shapes]
    batches = {f"{count} x {length}": [rows.make(length, i) for i in range(count)] for count, length in shapes}
    mixed = [rows.make(length, i) for i, length in enumerate(mixed_lengths(scale.mixed_rows, longest))]
    differences, wrong = compare(reference, runners, variants, [*batches.values(), mixed[: 4 * scale.bench_inputs]])
    eager = reference.with_setup(TorchSetup(device=device, precision="fp16" if device == "cuda" else "fp32"))
    return SpeedMeter(manifest, device, eager, variants, runners, batches, mixed, differences, wrong)


def main() -> None:
    """Measure, write the result, and exit with 1 if a variant is wrong or a floor is not met."""
    artifact, checkpoint, device, floors, result = sys.argv[1:]
    with one_line_errors():
        meter = open_meter(Path(artifact), Path(checkpoint), "cuda" if device == "cuda" else "cpu")
        meter.has_floors = device == "cuda" and floors == WITH_FLOORS
        for found in meter.measure():
            write_result(result, found.model_dump_json())
    report = meter.report()
    for name, why in report.wrong.items():
        sys.stdout.write(f"{name} is wrong: {why}\n")
    for line in report.unmet():
        sys.stdout.write(f"{line}\n")
    sys.exit(0 if report.is_passed else 1)


if __name__ == "__main__":
    main()
