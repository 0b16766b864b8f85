"""Stand-ins for a GPU: sessions that say they run on CUDA, and graphs without CPU kernels run in `onnx.reference`.

Everything else is real: the provider check, the options, buffers, streams, shapes of CUDA graphs and batches. In place
of TensorRT's engines files are written where its options say, as TensorRT does: the engine where there is none, and the
timing cache each time.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx
import onnxruntime as ort
import pytest

from tuneport.runtime.backends import gpu, tensorrt
from tuneport.runtime.backends.base import Backend
from tuneport.runtime.backends.providers import PROVIDERS
from tuneport.runtime.device_options import DeviceOptions
from tuneport.runtime.scheduler import BATCH_TOKENS
from tuneport.schema.artifact import Device, Shape
from tuneport.stages.export import applicable, build, pipeline
from tuneport.stages.export.torch_device import TORCH_DEVICES

from .packed import ReferenceBackend

ENGINE_KEY = "nvidia-h100-sm90-tensorrt10.16.1-onnxruntime1.31.1"


@dataclass
class PretendedGpu:
    """Records what was opened, by variant."""

    options: dict[str, dict[str, str]] = field(default_factory=dict)
    streams: dict[str, set[int]] = field(default_factory=dict)
    shapes: dict[str, set[tuple[Shape, ...]]] = field(default_factory=dict)
    engine_folders: dict[str, list[Path]] = field(default_factory=dict)
    """Where TensorRT had its engines at each opening."""
    engines_built: int = 0

    def write_engine(self, name: str, folder: Path) -> None:
        self.engine_folders.setdefault(name, []).append(folder)
        if not (folder / "graph_sm90.engine").exists():
            (folder / "graph_sm90.engine").write_bytes(b"engine")
            self.engines_built += 1
        with (folder / "sm90.timing").open("ab") as file:
            file.write(b"timing")


def pretend_gpu(monkeypatch: pytest.MonkeyPatch, engine_key: str = ENGINE_KEY) -> PretendedGpu:
    """Let variants for CUDA and TensorRT open on the CPU."""
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
        assert device in ("cuda", "tensorrt")
        name = path.parent.name
        if device == "tensorrt":
            found.write_engine(name, Path(provider_options["trt_engine_cache_path"]))
        found.options[name] = dict(provider_options)
        found.streams.setdefault(name, set()).add(streams)
        found.shapes.setdefault(name, set()).add(tuple(graph_shapes))
        model = onnx.load(path)
        has_bf16 = any(each.data_type == onnx.TensorProto.BFLOAT16 for each in model.graph.initializer)
        if has_bf16 or any(node.op_type.startswith("Packed") for node in model.graph.node):
            return ReferenceBackend(model)
        return real(path, device="cpu", threads=threads, streams=streams, graph_shapes=graph_shapes)

    monkeypatch.setattr(gpu, "GpuBackend", open_backend)
    monkeypatch.setattr(pipeline, "check_device", lambda device: None)
    monkeypatch.setattr(applicable, "has_tensorrt", lambda: True)
    monkeypatch.setitem(TORCH_DEVICES, "cuda", "cpu")
    for provider in ("cuda", "tensorrt"):
        monkeypatch.setitem(BATCH_TOKENS, provider, (64, 128))
    for module in (tensorrt, build):
        monkeypatch.setattr(module, "engine_key", lambda: engine_key)
    return found


def pretend_provider(monkeypatch: pytest.MonkeyPatch, open_session: Any) -> None:
    """Let onnxruntime claim to have CUDA and TensorRT, and open sessions with `open_session`."""
    providers = [PROVIDERS["tensorrt"], PROVIDERS["cuda"], PROVIDERS["cpu"]]
    monkeypatch.setattr(ort, "get_available_providers", lambda: providers)
    monkeypatch.setattr(ort, "preload_dlls", lambda: None)
    monkeypatch.setattr(ort, "InferenceSession", open_session)
