"""The engine benchmark: every variant against torch, on the same real inputs, in one process, without a server."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from tuneport.data.sample import Sample
from tuneport.errors import ArtifactError
from tuneport.folders import check_out, git_commit, new_folder, sha256
from tuneport.gpu import GpuMeter
from tuneport.host import Host
from tuneport.runtime.golden import check_golden
from tuneport.runtime.loading import open_runner, open_task
from tuneport.runtime.runner import ModelRunner
from tuneport.schema.artifact import MANIFEST, GoldenCase, Manifest, Variant
from tuneport.schema.loading import check_files, load_golden, load_manifest
from tuneport.schema.torch_setup import REFERENCE, TorchDevice, TorchSetup
from tuneport.stages.export.baselines import Baselines, baseline_setups, honest_baselines
from tuneport.stages.export.benchmark import BenchmarkResult, BenchmarkTarget, benchmark
from tuneport.stages.export.families import ExportFamily, export_family
from tuneport.stages.export.gate import Gate, Measurement
from tuneport.stages.export.reference import TorchModel
from tuneport.stages.export.torch_device import TORCH_DEVICES

from .baselines import TorchBaseline, open_baseline, read_workload
from .config import BenchConfig
from .flops import product_flops_per_token, product_share
from .machine import MachineState
from .report import REPORT, ModelResult, Report
from .report_files import write_report
from .reuse import note, timings_of_export
from .shapes import ShapeTiming, parse_shapes, time_shapes

Progress = Callable[[str], object]


@dataclass(frozen=True)
class Models:
    """What is compared: the checkpoint in torch, and the artifact's variants, by name."""

    baselines: Baselines
    runners: Mapping[str, ModelRunner]
    variants: tuple[Variant, ...]
    """The runners' records."""


@dataclass(frozen=True)
class Times:
    """What was timed, by the name of the model."""

    results: Mapping[str, BenchmarkResult]
    shapes: Mapping[str, tuple[ShapeTiming, ...]]
    """Batches of fixed shapes."""
    notes: tuple[str, ...]
    """Where the timings come from, and what was not timed."""


def bench(config: BenchConfig, out: Path, *, overwrite: bool = False, progress: Progress = lambda _: None) -> Report:
    """Time the variants of one device and write report.md, report.json, report.html and report.png into `out`.

    Files and golden cases are checked first. Returns the report. Raises ArtifactError, CheckpointError, DataError or
    EngineError for inputs and devices that cannot be used, and GateError for a variant whose golden cases differ from
    torch's.
    """
    check_out(out, marker=REPORT, overwrite=overwrite)
    parse_shapes(config.shapes)
    progress("reading data and models")
    manifest = load_manifest(config.artifact)
    check_files(config.artifact, manifest)
    device, variants, left_out = select_device(manifest, config.device)
    baseline = open_baseline(manifest, config)
    workload = read_workload(manifest, baseline.task, config)
    golden = load_golden(config.artifact)
    family = export_family(manifest.task)
    reference = baseline.load_reference(device)
    host = Host.here()
    meter = GpuMeter(host.gpus[0] if device != "cpu" and host.gpus else None)
    runners = open_variants(config.artifact, manifest, variants, golden, meter)

    progress("comparing answers with torch")
    gate = build_gate(config.artifact, manifest, baseline, reference, golden, workload)
    setups = timed_setups(device, is_encoder=family.is_calibrated, is_compiled=config.torch_compile)
    reused = timings_of_export(manifest, config, host)
    if reused:
        setups = tuple(setup for setup in setups if setup.name in reused)
    models = Models(honest_baselines(gate, family, reference, setups), runners, variants)
    measurements = measure_models(gate, models)
    progress("measuring the machine")
    machine = MachineState.now(device)
    times = Times(reused, {}, (note(manifest),))
    if not reused:
        times = time_models(gate, family, models, config, meter, progress)

    report = build_report(config, manifest, host, machine, workload, gate, models, measurements, times, meter, left_out)
    with new_folder(out, marker=REPORT, overwrite=overwrite) as folder:
        write_report(folder, report)
    return report


def timed_setups(device: TorchDevice, *, is_encoder: bool, is_compiled: bool) -> tuple[TorchSetup, ...]:
    """Return every way of running torch that is timed: the export's baselines and, on a CPU, its own int8."""
    setups = baseline_setups(device, is_compiled=is_compiled)
    return (*setups, TorchSetup(precision="int8")) if device == "cpu" and is_encoder else setups


def select_device(
    manifest: Manifest, device: TorchDevice | None
) -> tuple[TorchDevice, tuple[Variant, ...], tuple[str, ...]]:
    """Return the device to time, its variants, and a sentence on those of other devices, which take no part.

    Raises ArtifactError if the artifact has no variant for the device.
    """
    devices = {variant.name: TORCH_DEVICES[variant.execution.device] for variant in manifest.variants}
    chosen = device or devices[manifest.default_variant]
    variants = tuple(variant for variant in manifest.variants if devices[variant.name] == chosen)
    if not variants:
        has = ", ".join(sorted(set(devices.values())))
        raise ArtifactError(f"{manifest.name} has no variant for {chosen}", f"export for it, or give --device {has}")
    others = [f"{name} ({devices[name]})" for name in devices if devices[name] != chosen]
    note = f"Left out, because a report has the variants of one device, here {chosen}: {', '.join(others)}."
    return chosen, variants, (note,) if others else ()


def open_variants(
    artifact: Path, manifest: Manifest, variants: tuple[Variant, ...], golden: list[GoldenCase], meter: GpuMeter
) -> dict[str, ModelRunner]:
    """Open variants; a GateError if one does not reproduce the golden cases."""
    runners = {}
    for variant in variants:
        with meter.measure(variant.name, only_memory=True):
            runners[variant.name] = open_runner(artifact, manifest, variant)
            check_golden(runners[variant.name], golden, variant)
    return runners


def build_gate(
    artifact: Path,
    manifest: Manifest,
    baseline: TorchBaseline,
    reference: TorchModel,
    golden: list[GoldenCase],
    workload: Sample,
) -> Gate:
    """Run the reference on the workload; the gate compares all other models with its outputs."""
    runtime_task = open_task(artifact, manifest.task, manifest.labels, manifest.processing)
    parsed_inputs = [runtime_task.parse_input(value) for value in workload.inputs]
    expected = reference.outputs(runtime_task, parsed_inputs)
    return Gate(baseline.task, runtime_task, golden, workload, expected)


def measure_models(gate: Gate, models: Models) -> dict[str, Measurement]:
    """Measure parity and the task's metric of every model, torch first."""
    reference = gate.measure_torch(models.baselines.models[REFERENCE])
    variants = {name: gate.measure(runner) for name, runner in models.runners.items()}
    return {REFERENCE: reference, **models.baselines.measurements, **variants}


def time_models(
    gate: Gate, family: ExportFamily, models: Models, config: BenchConfig, meter: GpuMeter, progress: Progress
) -> Times:
    """Time every model on the rows of the workload, and encoders on batches of fixed shapes."""
    has_batch_choice = family.has_batch_choice
    targets = {
        name: BenchmarkTarget.of_torch(model, has_batch_choice=has_batch_choice)
        for name, model in models.baselines.models.items()
    }
    for variant in models.variants:
        runner, execution = models.runners[variant.name], variant.execution
        targets[variant.name] = BenchmarkTarget.of_runner(runner, execution.device, execution.precision)
    rows = family.timed_rows(gate.rows, gate.expected)
    results = benchmark(
        targets,
        rows,
        precision=config.precision,
        max_seconds=config.max_seconds,
        rounds=config.rounds,
        meter=meter,
        progress=progress,
    )
    if not has_batch_choice:
        return Times(results, {}, ())
    max_length = next(iter(models.runners.values())).limits.longest
    return Times(
        results, *time_shapes(targets, rows, parse_shapes(config.shapes), max_length=max_length, progress=progress)
    )


def build_report(
    config: BenchConfig,
    manifest: Manifest,
    host: Host,
    machine: MachineState,
    workload: Sample,
    gate: Gate,
    models: Models,
    measurements: Mapping[str, Measurement],
    times: Times,
    meter: GpuMeter,
    left_out: tuple[str, ...],
) -> Report:
    """Put what was measured together with what it was measured on."""
    executions = {variant.name: variant.execution for variant in models.variants}
    footprints = {variant.name: variant.evidence.footprint for variant in models.variants}
    results = times.results
    baselines = models.baselines.models
    # A generative model generates token by token: tokens of its prompts say little of its products.
    is_encoder = export_family(manifest.task).has_batch_choice
    flops_per_token = product_flops_per_token(baselines[REFERENCE].model) if is_encoder else 0.0
    refused = tuple(f"Not timed: {name}: {reason}." for name, reason in models.baselines.refused.items())
    return Report(
        name=manifest.name,
        version=manifest.version,
        manifest_sha256=sha256(config.artifact / MANIFEST),
        default_variant=manifest.default_variant,
        data=workload.source,
        split=workload.split,
        mean_tokens=round(float(np.mean([len(row) for row in gate.rows])), 1),
        device=baselines[REFERENCE].setup.device,
        host=host,
        machine=machine,
        config=config.model_dump(mode="json"),
        git_commit=git_commit(Path(__file__).parent),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        results=tuple(
            ModelResult(
                name=name,
                device=TORCH_DEVICES[executions[name].device] if name in executions else baselines[name].setup.device,
                torch=baselines[name].setup if name in baselines else None,
                compile_s=baselines[name].compile_s if name in baselines else None,
                metric=measurement.metric,
                agreement=measurement.parity.agreement,
                size_bytes=executions[name].size_bytes if name in executions else None,
                memory_mib=footprints[name].memory_mib if name in footprints else None,
                cold_start_ms=footprints[name].cold_start_ms if name in footprints else None,
                max_batch_tokens=results[name].max_batch_tokens,
                timing=results[name].timing,
                product_share=product_share(results[name].timing.tokens_per_s, flops_per_token, machine.product_tflops),
                shapes=times.shapes.get(name, ()),
                gpu=meter.usage(name),
            )
            for name, measurement in measurements.items()
        ),
        notes=(*left_out, *times.notes, *refused),
    )
