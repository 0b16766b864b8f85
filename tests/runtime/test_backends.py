"""The ONNX Runtime backend: its execution provider, and outputs that are bound to a device."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from tuneport.errors import EngineError
from tuneport.runtime.backends.onnxruntime import OnnxRuntimeBackend
from tuneport.runtime.batch import EncodedInput, padded_batch
from tuneport.schema.artifact import Manifest


@pytest.fixture(scope="module")
def graph(tiny_artifact: Path, manifest: Manifest) -> Path:
    return tiny_artifact / manifest.variant("fp32").execution.files[0].path


@pytest.mark.skipif("CUDAExecutionProvider" in ort.get_available_providers(), reason="this onnxruntime has CUDA")
def test_cuda_on_a_cpu_onnxruntime_is_refused_with_a_remedy(graph: Path) -> None:
    with pytest.raises(EngineError, match="no CUDAExecutionProvider") as caught:
        OnnxRuntimeBackend(graph, device="cuda")
    assert "tuneport[gpu]" in caught.value.remedy


def pretend_cuda(monkeypatch: pytest.MonkeyPatch, open_session: Callable[..., Any]) -> None:
    """Let onnxruntime claim to have CUDA, and open sessions with `open_session`."""
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"])
    monkeypatch.setattr(ort, "preload_dlls", lambda: None)
    monkeypatch.setattr(ort, "InferenceSession", open_session)


def test_a_provider_that_falls_back_is_refused(graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """onnxruntime only logs when CUDA's libraries are missing, and uses the CPU."""
    real = ort.InferenceSession
    pretend_cuda(monkeypatch, lambda path, options, providers: real(path, options, providers=["CPUExecutionProvider"]))
    with pytest.raises(EngineError, match="CPUExecutionProvider was given"):
        OnnxRuntimeBackend(graph, device="cuda")


class PretendedCuda:
    """A session on the CPU that says it is on CUDA, refuses unbound runs and records what is bound where."""

    def __init__(self, session: ort.InferenceSession) -> None:
        self._session = session
        self.bound: list[tuple[str, str]] = []

    def get_providers(self) -> list[str]:
        return ["CUDAExecutionProvider"]

    def run(self, *_: Any) -> None:
        raise AssertionError("the outputs are not bound to the device")

    def io_binding(self) -> Any:
        binding, bound = self._session.io_binding(), self.bound

        class Recorded:
            def bind_cpu_input(self, name: str, values: Any) -> None:
                bound.append((name, "cpu"))
                binding.bind_cpu_input(name, values)

            def bind_output(self, name: str, device: str) -> None:
                bound.append((name, device))
                binding.bind_output(name, "cpu")

            def copy_outputs_to_cpu(self) -> Any:
                return binding.copy_outputs_to_cpu()

        self._binding = binding
        return Recorded()

    def run_with_iobinding(self, _: Any) -> None:
        self._session.run_with_iobinding(self._binding)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)


def test_on_cuda_inputs_and_outputs_are_bound_and_the_outputs_are_the_plain_ones(
    graph: Path, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = ort.InferenceSession
    sessions: list[PretendedCuda] = []

    def open_session(path: str, options: Any, providers: list[Any]) -> PretendedCuda:
        assert providers[0][0] == "CUDAExecutionProvider"
        sessions.append(PretendedCuda(real(path, options, providers=["CPUExecutionProvider"])))
        return sessions[-1]

    plain = OnnxRuntimeBackend(graph)
    pretend_cuda(monkeypatch, open_session)
    cuda = OnnxRuntimeBackend(graph, device="cuda")
    for lengths in ((3,), (17, 5, 9, 17)):
        rows = [EncodedInput(list(range(5, 5 + length)), [0] * length, False) for length in lengths]
        batch = padded_batch(rows, manifest.processing)
        outputs, expected = cuda.run(batch), plain.run(batch)
        assert outputs.keys() == expected.keys()
        np.testing.assert_array_equal(outputs["logits"], expected["logits"])
    inputs = [name for name, device in sessions[0].bound if device == "cpu"]
    assert sorted(inputs) == sorted(2 * [tensor.name for tensor in manifest.inputs])
    assert [bound for bound in sessions[0].bound if bound[1] != "cpu"] == [("logits", "cuda")] * 2


def test_a_file_that_is_no_graph_is_an_engine_error(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"no graph")
    with pytest.raises(EngineError, match="cannot load"):
        OnnxRuntimeBackend(tmp_path / "model.onnx")
