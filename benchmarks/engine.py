"""The engine benchmark: every variant against torch, on the same real inputs, in one process, without a server."""

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path

from tuneport.data.sample import Sample
from tuneport.errors import ArtifactError
from tuneport.folders import check_out, new_folder
from tuneport.gpu import GpuMeter
from tuneport.host import Host
from tuneport.runtime.availability import use_fit_gpu, variant_here
from tuneport.runtime.golden import check_golden
from tuneport.runtime.loading import open_runner, open_task
from tuneport.schema.artifact import Footprint, GoldenCase, Manifest, Variant
from tuneport.schema.loading import check_files, load_golden, load_manifest
from tuneport.schema.torch_setup import REFERENCE, TorchDevice, TorchSetup
from tuneport.stages.export.baselines import Baselines, baseline_setups, honest_baselines
from tuneport.stages.export.benchmark import benchmark
from tuneport.stages.export.families import ExportFamily, export_family
from tuneport.stages.export.gate import Gate, Measurement
from tuneport.stages.export.reference import TorchModel
from tuneport.stages.export.target import BenchmarkTarget
from tuneport.stages.export.torch_device import TORCH_DEVICES
from tuneport.tasks import task_spec

from .baselines import TorchBaseline, open_baseline, read_workload
from .config import BenchConfig
from .engine_peers import honest_peers, open_peers
from .engine_report import Models, Times, build_report
from .machine import MachineState
from .peers.registry import check_environments
from .report import REPORT, Report
from .report_files import write_report
from .reuse import note, timings_of_export
from .shapes import cudnn_targets, parse_shapes, time_fastest
from .timed_model import TimedModel
from .torch_footprint import torch_footprint

Progress = Callable[[str], object]
FOOTPRINT_ROWS = 16
"""Golden rows that torch runs while its memory is measured."""


def bench(config: BenchConfig, out: Path, *, overwrite: bool = False, progress: Progress = lambda _: None) -> Report:
    """Time the variants of one device and write report.md, report.json, report.html and report.png into `out`.

    Files and golden cases are checked first. Returns the report. Raises ArtifactError, CheckpointError, DataError or
    EngineError for inputs and devices that cannot be used, and GateError for a variant whose golden cases differ from
    torch's.
    """
    check_out(out, marker=REPORT, overwrite=overwrite)
    check_environments(config.peers)
    parse_shapes(config.shapes)
    progress("reading data and models")
    manifest = load_manifest(config.artifact)
    check_files(config.artifact, manifest)
    device, variants, left_out = select_device(manifest, config.device)
    use_fit_gpu(*(each.execution for each in variants))
    baseline = open_baseline(manifest, config)
    workload = read_workload(manifest, baseline.task, config)
    golden = load_golden(config.artifact)
    family = export_family(manifest.task)
    reference = baseline.load_reference(device)
    host = Host.here()
    meter = GpuMeter(host.gpus[0] if device != "cpu" and host.gpus else None)
    timed = open_variants(config.artifact, manifest, variants, golden, meter)
    with contextlib.ExitStack() as stack:
        inputs = [case.input for case in golden]
        peers, absent = open_peers(config, manifest, baseline.checkpoint.folder, device, inputs, stack, progress)
        progress("comparing answers with torch")
        gate = build_gate(config.artifact, manifest, baseline, reference, golden, workload)
        setups = timed_setups(device, is_encoder=family.is_calibrated, is_compiled=config.torch_compile)
        reused = timings_of_export(manifest, config, host)
        if reused:
            setups = tuple(setup for setup in setups if setup.name in reused)
        baselines = honest_baselines(gate, family, reference, setups)
        measured_peers, refused = honest_peers(gate, family, peers)
        models = Models(baselines, timed | {name: peers[name] for name in measured_peers})
        measurements = measure_models(gate, baselines, timed) | measured_peers
        progress("measuring memory and cold start")
        footprints = measure_footprints(models, baseline, gate)
        progress("measuring the machine")
        machine = MachineState.now(device)
        times = Times(reused, {}, (note(manifest),))
        if not reused:
            times = time_models(gate, family, models, config, meter, progress)
    notes = (*left_out, *absent, *times.notes, *refused)
    report = build_report(
        config, manifest, host, machine, workload, gate, models, measurements, footprints, times, meter, notes
    )
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
    chosen = device or devices[variant_here(manifest).name]
    variants = tuple(variant for variant in manifest.variants if devices[variant.name] == chosen)
    if not variants:
        has = ", ".join(sorted(set(devices.values())))
        raise ArtifactError(f"{manifest.name} has no variant for {chosen}", f"export for it, or give --device {has}")
    others = [f"{name} ({devices[name]})" for name in devices if devices[name] != chosen]
    note = f"Left out, because a report has the variants of one device, here {chosen}: {', '.join(others)}."
    return chosen, variants, (note,) if others else ()


def open_variants(
    artifact: Path, manifest: Manifest, variants: tuple[Variant, ...], golden: list[GoldenCase], meter: GpuMeter
) -> dict[str, TimedModel]:
    """Open variants; a GateError if one does not reproduce the golden cases.

    Memory and cold start are the manifest's where they were measured on a host like this one.
    """
    models, here = {}, Host.here()
    for variant in variants:
        footprint = variant.evidence.footprint if manifest.part_of(variant.name).host == here else None
        with meter.measure(variant.name, only_memory=True):
            runner = open_runner(artifact, manifest, variant)
            models[variant.name] = TimedModel.of_variant(variant, runner, footprint)
            check_golden(models[variant.name].runner, golden, variant)
    return models


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


def measure_models(gate: Gate, baselines: Baselines, timed: Mapping[str, TimedModel]) -> dict[str, Measurement]:
    """Measure parity and the task's metric of torch, first, and of every variant."""
    reference = gate.measure_torch(baselines.models[REFERENCE])
    variants = {name: gate.measure(model.runner) for name, model in timed.items()}
    return {REFERENCE: reference, **baselines.measurements, **variants}


def measure_footprints(models: Models, baseline: TorchBaseline, gate: Gate) -> dict[str, Footprint]:
    """Return the footprints of the timed models as they were measured, and measure torch's, of encoders on a CPU."""
    footprints = {name: model.footprint for name, model in models.timed.items() if model.footprint}
    spec = task_spec(baseline.checkpoint.task)
    for name, model in models.baselines.models.items():
        setup = model.setup
        if not spec.is_generative and setup.device == "cpu" and not setup.compiled:
            found = torch_footprint(
                baseline.checkpoint.folder, spec.auto_model, setup.precision, gate.golden_rows[:FOOTPRINT_ROWS]
            )
            footprints |= {name: found} if found else {}
    return footprints


def time_models(
    gate: Gate, family: ExportFamily, models: Models, config: BenchConfig, meter: GpuMeter, progress: Progress
) -> Times:
    """Time every model on the rows of the workload, and encoders on batches of fixed shapes."""
    has_batch_choice = family.has_batch_choice
    targets = {
        name: BenchmarkTarget.of_torch(model, has_batch_choice=has_batch_choice)
        for name, model in models.baselines.models.items()
    }
    targets |= {name: model.target for name, model in models.timed.items()}
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
    max_length = next(iter(models.timed.values())).runner.limits.longest
    others, shapes = cudnn_targets(models.baselines.models), parse_shapes(config.shapes)
    return Times(results, *time_fastest(targets, others, rows, shapes, max_length=max_length, progress=progress))
