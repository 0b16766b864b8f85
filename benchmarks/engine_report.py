"""Put together what the engine benchmark measured, and what it was measured on."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from tuneport.data.sample import Sample
from tuneport.folders import git_commit, sha256
from tuneport.gpu import GpuMeter
from tuneport.host import Host
from tuneport.runtime.availability import variant_here
from tuneport.schema.artifact import MANIFEST, Footprint, Manifest
from tuneport.schema.torch_setup import REFERENCE
from tuneport.stages.export.baselines import Baselines
from tuneport.stages.export.families import export_family
from tuneport.stages.export.gate import Gate, Measurement
from tuneport.stages.export.results import BenchmarkResult
from tuneport.stages.export.torch_device import TORCH_DEVICES

from .config import BenchConfig
from .flops import product_flops_per_token, product_share
from .machine import MachineState
from .report import ModelResult, Report
from .shapes import ShapeTiming
from .timed_model import TimedModel


@dataclass(frozen=True)
class Models:
    """What is compared, by name: the checkpoint in torch, the artifact's variants, and what other tools made of it."""

    baselines: Baselines
    timed: Mapping[str, TimedModel]


@dataclass(frozen=True)
class Times:
    """What was timed, by the name of the model."""

    results: Mapping[str, BenchmarkResult]
    shapes: Mapping[str, tuple[ShapeTiming, ...]]
    """Batches of fixed shapes."""
    notes: tuple[str, ...]
    """Where the timings come from, and what was not timed."""


def build_report(
    config: BenchConfig,
    manifest: Manifest,
    host: Host,
    machine: MachineState,
    workload: Sample,
    gate: Gate,
    models: Models,
    measurements: Mapping[str, Measurement],
    footprints: Mapping[str, Footprint],
    times: Times,
    meter: GpuMeter,
    notes: tuple[str, ...],
) -> Report:
    """Put what was measured together with what it was measured on."""
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
        default_variant=variant_here(manifest).name,
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
                device=TORCH_DEVICES[models.timed[name].device]
                if name in models.timed
                else baselines[name].setup.device,
                torch=baselines[name].setup if name in baselines else None,
                compile_s=baselines[name].compile_s if name in baselines else None,
                metric=measurement.metric,
                agreement=measurement.parity.agreement,
                size_bytes=models.timed[name].size_bytes if name in models.timed else None,
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
        notes=(*notes, *refused),
    )
