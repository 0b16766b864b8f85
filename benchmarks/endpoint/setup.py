"""What the endpoint benchmark reads and checks before it starts a server."""

import os
from dataclasses import dataclass
from typing import Any

import numpy as np

from tuneport.data.sample import Sample
from tuneport.gpu import GpuMeter, visible_gpus
from tuneport.runtime.availability import VARIANT, variant_here, variant_of_environment
from tuneport.runtime.loading import open_runner
from tuneport.runtime.runner import ModelRunner
from tuneport.schema.artifact import Manifest, Variant
from tuneport.schema.loading import check_files, load_golden, load_manifest
from tuneport.schema.torch_setup import TorchDevice
from tuneport.stages.export.torch_device import check_torch

from ..baselines import open_baseline, read_workload
from ..config import EndpointConfig
from .check import MIN_AGREEMENT, ExpectedPrediction, expected_predictions, variant_agreement
from .peers import peer_targets
from .targets import EndpointTarget, endpoint_targets, served_device


@dataclass(frozen=True)
class EndpointSetup:
    """One benchmark, ready to start its servers."""

    config: EndpointConfig
    manifest: Manifest
    variant: Variant
    workload: Sample
    runner: ModelRunner
    """The variant in this process: its task reads predictions, and its engine is timed alone."""
    mean_tokens: float
    """Mean length of an input, all its windows together, in tokens."""
    expected: list[ExpectedPrediction]
    """torch's on the golden cases."""
    variant_agreement: float
    """Share of the golden cases on which the variant, in this process, has torch's prediction."""
    targets: list[EndpointTarget]
    """The servers to time, tuneport over HTTP first."""
    absent_peers: tuple[str, ...]
    """A sentence for each peer that takes no part, with the reason."""
    device: TorchDevice
    """What all of them run on."""
    meter: GpuMeter
    """Measures the GPU; nothing on a CPU."""

    def least_agreement(self, target: EndpointTarget) -> float:
        """Return the share of golden cases on which a server must have torch's prediction."""
        return MIN_AGREEMENT * (self.variant_agreement if target.runs_variant else 1.0)

    @property
    def inputs(self) -> list[Any]:
        """Return the inputs to send."""
        return self.workload.inputs

    @property
    def http(self) -> EndpointTarget:
        """Return tuneport's HTTP endpoint."""
        return self.targets[0]


def prepare(config: EndpointConfig) -> EndpointSetup:
    """Check the artifact, read inputs, and open the variant; raises TuneportError for what cannot be used."""
    manifest = load_manifest(config.artifact)
    check_files(config.artifact, manifest)
    # Named to the servers, too: a service may choose another one by its own timing.
    variant = variant_here(manifest, config.variant or variant_of_environment(manifest, os.environ.get(VARIANT)))
    baseline = open_baseline(manifest, config)
    workload = read_workload(manifest, baseline.task, config)
    runner = open_runner(config.artifact, manifest, variant)
    device, gpus = served_device(manifest, variant.name), visible_gpus()
    check_torch(device)
    peers, absent_peers = peer_targets(config.peers, manifest, baseline.checkpoint.folder, device)
    golden = load_golden(config.artifact)
    expected = expected_predictions(runner.task, golden)
    windows = runner.task.encode([runner.task.parse_input(value) for value in workload.inputs])
    return EndpointSetup(
        config=config,
        manifest=manifest,
        variant=variant,
        workload=workload,
        runner=runner,
        mean_tokens=float(np.mean([sum(map(len, rows)) for rows in windows])),
        expected=expected,
        variant_agreement=variant_agreement(runner, golden, expected),
        targets=[*endpoint_targets(config.artifact, manifest, baseline.checkpoint.folder, variant.name), *peers],
        absent_peers=absent_peers,
        device=device,
        meter=GpuMeter(gpus[0] if device == "cuda" and gpus else None),
    )
