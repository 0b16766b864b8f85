"""The engine benchmark: every variant against torch, on the same real inputs, in one process, without a server."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from tuneport.data.sample import Sample
from tuneport.folders import check_out, git_commit, new_folder
from tuneport.host import Host
from tuneport.runtime.golden import check_golden
from tuneport.runtime.loading import open_runner, open_task
from tuneport.runtime.runner import ModelRunner
from tuneport.runtime.scheduler import BatchLimits
from tuneport.schema.artifact import GoldenCase, Manifest
from tuneport.schema.loading import check_files, load_golden, load_manifest
from tuneport.stages.export.benchmark import BenchmarkResult, BenchmarkTarget, benchmark, candidate_limits
from tuneport.stages.export.families import export_family
from tuneport.stages.export.gate import Gate, Measurement
from tuneport.stages.export.reference import TorchModel

from .baselines import BASELINE, TorchBaseline, open_baseline, read_workload
from .config import BenchConfig
from .report import REPORT, ModelResult, Report, write_report

Progress = Callable[[str], object]


@dataclass(frozen=True)
class Models:
    """What is compared: the checkpoint in torch, and the artifact's variants, by name."""

    torch: Mapping[str, TorchModel]
    variants: Mapping[str, ModelRunner]


def bench(config: BenchConfig, out: Path, *, overwrite: bool = False, progress: Progress = lambda _: None) -> Report:
    """Time every variant and write report.md, report.json and report.png into `out`; returns the report.

    Files and golden cases are checked first. Raises ArtifactError, CheckpointError or DataError for inputs that
    cannot be used, and GateError for a variant whose golden cases differ from torch's.
    """
    check_out(out, marker=REPORT, overwrite=overwrite)
    progress("reading data and models")
    manifest = load_manifest(config.artifact)
    check_files(config.artifact, manifest)
    baseline = open_baseline(manifest, config)
    workload = read_workload(manifest, baseline.task, config)
    golden = load_golden(config.artifact)
    models = Models(baseline.load_models(), open_variants(config.artifact, manifest, golden))

    progress("comparing answers with torch")
    gate = build_gate(config.artifact, manifest, baseline, models, golden, workload)
    measurements = measure_models(gate, models)
    results = time_models(gate, manifest, models, config.rounds, progress)

    report = build_report(config, manifest, workload, gate, measurements, results)
    with new_folder(out, marker=REPORT, overwrite=overwrite) as folder:
        write_report(folder, report)
    return report


def open_variants(artifact: Path, manifest: Manifest, golden: list[GoldenCase]) -> dict[str, ModelRunner]:
    """Open every variant; a GateError if one does not reproduce the golden cases."""
    runners = {}
    for variant in manifest.variants:
        runners[variant.name] = open_runner(artifact, manifest, variant)
        check_golden(runners[variant.name], golden, variant)
    return runners


def build_gate(
    artifact: Path,
    manifest: Manifest,
    baseline: TorchBaseline,
    models: Models,
    golden: list[GoldenCase],
    workload: Sample,
) -> Gate:
    """Run torch fp32 on the workload; the gate compares all other models with its outputs."""
    runtime_task = open_task(artifact, manifest.task, manifest.labels, manifest.processing)
    parsed_inputs = [runtime_task.parse_input(value) for value in workload.inputs]
    expected = models.torch[BASELINE].outputs(runtime_task, parsed_inputs)
    return Gate(baseline.task, runtime_task, golden, workload, expected)


def measure_models(gate: Gate, models: Models) -> dict[str, Measurement]:
    """Measure parity and the task's metric of every model."""
    measurements = {name: gate.measure_torch(model) for name, model in models.torch.items()}
    return measurements | {name: gate.measure(runner) for name, runner in models.variants.items()}


def time_models(
    gate: Gate, manifest: Manifest, models: Models, rounds: int, progress: Progress
) -> dict[str, BenchmarkResult]:
    """Time every model on the rows of the workload."""
    family = export_family(manifest.task)
    limits = candidate_limits(BatchLimits(), "cpu") if family.has_batch_choice else (BatchLimits(),)
    targets = {name: BenchmarkTarget(model.run_batch, limits=limits) for name, model in models.torch.items()}
    for variant in manifest.variants:
        runner = models.variants[variant.name]
        targets[variant.name] = BenchmarkTarget.of_runner(runner, variant.execution.device)
    rows = family.timed_rows(gate.rows, gate.expected)
    return benchmark(targets, rows, baseline=BASELINE, rounds=rounds, progress=progress)


def build_report(
    config: BenchConfig,
    manifest: Manifest,
    workload: Sample,
    gate: Gate,
    measurements: Mapping[str, Measurement],
    results: Mapping[str, BenchmarkResult],
) -> Report:
    """Put what was measured together with what it was measured on."""
    sizes = {variant.name: variant.execution.size_bytes for variant in manifest.variants}
    return Report(
        name=manifest.name,
        version=manifest.version,
        default_variant=manifest.default_variant,
        data=workload.source,
        split=workload.split,
        mean_tokens=round(float(np.mean([len(row) for row in gate.rows])), 1),
        host=Host.here(),
        config=config.model_dump(mode="json"),
        git_commit=git_commit(Path(__file__).parent),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        results=tuple(
            ModelResult(
                name=name,
                metric=measurement.metric,
                agreement=measurement.parity.agreement,
                size_bytes=sizes.get(name),
                timing=results[name].timing,
            )
            for name, measurement in measurements.items()
        ),
    )
