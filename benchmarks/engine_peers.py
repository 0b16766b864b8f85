"""What users would export with otherwise, as targets of the engine benchmark."""

import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tuneport.errors import EngineError, GateError
from tuneport.host import usable_cores
from tuneport.runtime.loading import build_runner, open_task
from tuneport.schema.artifact import TOKENIZER, Execution, File, Manifest, Precision
from tuneport.schema.torch_setup import TorchDevice
from tuneport.stages.export.baselines import MAX_DROP, MIN_AGREEMENT
from tuneport.stages.export.families import ExportFamily
from tuneport.stages.export.footprint import measure_footprint
from tuneport.stages.export.gate import Gate, Measurement, Thresholds, check
from tuneport.tasks import task_spec

from .config import BenchConfig
from .generator import last_line, running_generator
from .peers.registry import Peer, peers_of
from .timed_model import TimedModel

TIMEOUT_S = 900
GRAPH = "model.onnx"


def open_peers(
    config: BenchConfig,
    manifest: Manifest,
    checkpoint: Path,
    device: TorchDevice,
    inputs: list[Any],
    stack: ExitStack,
    progress: Callable[[str], object],
) -> tuple[dict[str, TimedModel], tuple[str, ...]]:
    """Return what the other tools make of a checkpoint on a device, by name, and a sentence for each absent one.

    `inputs` are run to measure memory. The files and processes of the tools live as long as `stack`.
    """
    if config.peers is None:
        return {}, ()
    is_encoder = not task_spec(manifest.task).is_generative
    work = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    models: dict[str, TimedModel] = {}
    notes = []
    for peer in peers_of("graph" if is_encoder else "generator"):
        for precision in peer.precisions:
            name = f"{peer.name} {precision}"
            progress(f"opening {name}")
            try:
                if reason := _obstacle(peer, config.peers, manifest, device):
                    raise EngineError(reason, "leave it out")
                if is_encoder:
                    folder = work / f"{peer.folder}-{precision}"
                    models[name] = _graph_model(peer, precision, config, manifest, checkpoint, inputs, folder)
                else:
                    task = open_task(config.artifact, manifest.task, manifest.labels, manifest.processing)
                    command = _generator_command(peer, config.peers, checkpoint, precision)
                    runner, size = stack.enter_context(running_generator(command, task))
                    models[name] = TimedModel(runner, precision, device, size_bytes=size)
            except EngineError as error:
                notes.append(f"{name}: {error.problem.rstrip('.')}.")
    return models, tuple(notes)


def honest_peers(
    gate: Gate, family: ExportFamily, peers: Mapping[str, TimedModel]
) -> tuple[dict[str, Measurement], tuple[str, ...]]:
    """Measure the peers that predict as torch does, and return a sentence for each other one, with its figures."""
    min_agreement = MIN_AGREEMENT if family.needs_agreement else 0.0
    thresholds = Thresholds.close(min_agreement, MAX_DROP, is_unlabelled=gate.is_unlabelled)
    measurements, refused = {}, []
    for name, model in peers.items():
        measurement = gate.measure(model.runner)
        try:
            check(measurement, thresholds)
        except GateError as error:
            refused.append(f"Not timed: {name}: it differs from torch: {error.problem}.")
        else:
            measurements[name] = measurement
    return measurements, tuple(refused)


def _obstacle(peer: Peer, folder: Path, manifest: Manifest, device: TorchDevice) -> str | None:
    if peer.kind == "generator" and manifest.task not in peer.tasks:
        return f"it is made for {' and '.join(peer.tasks)}"
    if peer.device != device:
        return f"it is made for {peer.device}"
    return peer.absence(folder)


def _graph_model(
    peer: Peer,
    precision: Precision,
    config: BenchConfig,
    manifest: Manifest,
    checkpoint: Path,
    inputs: list[Any],
    folder: Path,
) -> TimedModel:
    """Let a tool write its graph, and open it in the engine and with the tokenizer that the variants have."""
    folder.mkdir()
    spec = task_spec(manifest.task)
    arguments = [str(checkpoint.resolve()), spec.onnx_task, str(folder), precision]
    assert config.peers
    _run([str(peer.python(config.peers)), str(peer.script), *arguments], peer.name)
    if not (folder / GRAPH).is_file():
        raise EngineError("it wrote no graph", "run its script by hand")
    shutil.copyfile(config.artifact / TOKENIZER, folder / TOKENIZER)
    names = sorted(path.name for path in folder.iterdir() if path.name.startswith("model."))
    files = tuple(File.of(folder, name) for name in sorted(names, key=lambda name: name != GRAPH))
    execution = Execution(engine="onnxruntime", precision=precision, device="cpu", files=files)
    task = open_task(folder, manifest.task, manifest.labels, manifest.processing)
    runner = build_runner(folder, manifest.task, task, execution, manifest.processing)
    footprint = measure_footprint(folder, manifest.task, manifest.labels, manifest.processing, execution, inputs)
    return TimedModel(runner, precision, size_bytes=execution.size_bytes, footprint=footprint)


def _generator_command(peer: Peer, environments: Path, checkpoint: Path, precision: Precision) -> list[str]:
    script = [str(peer.python(environments)), str(peer.script)]
    return [*script, str(checkpoint.resolve()), precision, peer.device, str(usable_cores())]


def _run(command: list[str], name: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise EngineError(f"it does not end within {TIMEOUT_S} s", "run its script by hand") from error
    if done.returncode:
        raise EngineError(f"it fails ({last_line(done.stderr)})", f"run the script of {name} by hand")
