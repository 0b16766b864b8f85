"""Stand-ins for a GPU: sessions that say they run on CUDA, and graphs without CPU kernels run in `onnx.reference`.

Everything else is real: the provider check, the options, buffers, streams, shapes of CUDA graphs and batches.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx
import onnxruntime as ort
import pytest

from tuneport.runtime.backends import gpu, session
from tuneport.runtime.backends.base import Backend
from tuneport.runtime.device_options import DeviceOptions
from tuneport.schema.artifact import Device, Shape
from tuneport.stages.export import pipeline
from tuneport.stages.export.benchmark import BATCH_TOKENS
from tuneport.stages.export.torch_device import TORCH_DEVICES

from .packed import ReferenceBackend


@dataclass
class PretendedGpu:
    """Records what was opened, by variant."""

    options: dict[str, dict[str, str]] = field(default_factory=dict)
    streams: dict[str, set[int]] = field(default_factory=dict)
    shapes: dict[str, set[tuple[Shape, ...]]] = field(default_factory=dict)


def pretend_gpu(monkeypatch: pytest.MonkeyPatch) -> PretendedGpu:
    """Let variants for CUDA open on the CPU."""
    found = PretendedGpu()
    real = gpu.GpuBackend

    def open_backend(
        path: Path,
        *,
        device: Device,
        threads: int | None,
        streams: int,
        graph_shapes: Sequence[Shape],
        provider_options: Mapping[str, str],
        device_options: DeviceOptions,
    ) -> Backend:
        assert device == "cuda"
        name = path.parent.name
        found.options[name] = dict(provider_options)
        found.streams.setdefault(name, set()).add(streams)
        found.shapes.setdefault(name, set()).add(tuple(graph_shapes))
        model = onnx.load(path)
        if any(node.op_type.startswith("Packed") for node in model.graph.node):
            return ReferenceBackend(model)
        return real(path, device="cpu", threads=threads, streams=streams, graph_shapes=graph_shapes)

    monkeypatch.setattr(gpu, "GpuBackend", open_backend)
    monkeypatch.setattr(pipeline, "check_device", lambda device: None)
    monkeypatch.setitem(TORCH_DEVICES, "cuda", "cpu")
    monkeypatch.setitem(BATCH_TOKENS, "cuda", (64, 128))
    return found


def pretend_provider(monkeypatch: pytest.MonkeyPatch, open_session: Any) -> None:
    """Let onnxruntime claim to have CUDA and TensorRT, and open sessions with `open_session`."""
    providers = [session.PROVIDERS["tensorrt"], session.PROVIDERS["cuda"], session.PROVIDERS["cpu"]]
    monkeypatch.setattr(ort, "get_available_providers", lambda: providers)
    monkeypatch.setattr(ort, "preload_dlls", lambda: None)
    monkeypatch.setattr(ort, "InferenceSession", open_session)
