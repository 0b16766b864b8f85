"""The ONNX Runtime backends: the execution provider, device buffers, streams and shapes of CUDA graphs."""

import ctypes
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from kit.pretended_gpu import pretend_provider

from tuneport.errors import EngineError
from tuneport.runtime.backends import session as sessions
from tuneport.runtime.backends.buffers import HostBuffers
from tuneport.runtime.backends.gpu import GpuBackend
from tuneport.runtime.backends.onnxruntime import OnnxRuntimeBackend
from tuneport.runtime.backends.session import open_session
from tuneport.runtime.batch import Batch, EncodedInput, padded_batch
from tuneport.schema.artifact import Manifest

CPU = ["CPUExecutionProvider"]
LENGTHS = ((3,), (17, 5, 9, 17), (64,), (1, 1), (33, 40, 2))


@pytest.fixture(scope="module")
def graph(tiny_artifact: Path, manifest: Manifest) -> Path:
    return tiny_artifact / manifest.variant("fp32").execution.files[0].path


@pytest.fixture(scope="module")
def batches(manifest: Manifest) -> list[Batch]:
    return [padded_batch(rows_of(lengths), manifest.processing) for lengths in LENGTHS]


@pytest.fixture(scope="module")
def plain(graph: Path, batches: list[Batch]) -> list[np.ndarray]:
    """The logits that the CPU backend gives."""
    backend = OnnxRuntimeBackend(graph)
    return [backend.run(batch)["logits"] for batch in batches]


def rows_of(lengths: Sequence[int]) -> list[EncodedInput]:
    return [EncodedInput(list(range(5, 5 + length)), [0] * length, False) for length in lengths]


@pytest.mark.skipif("CUDAExecutionProvider" in ort.get_available_providers(), reason="this onnxruntime has CUDA")
def test_cuda_on_a_cpu_onnxruntime_is_refused_with_a_remedy(graph: Path) -> None:
    with pytest.raises(EngineError, match="no CUDAExecutionProvider") as caught:
        GpuBackend(graph)
    assert "tuneport[gpu]" in caught.value.remedy


@pytest.mark.parametrize("device", ["cuda", "tensorrt"])
def test_a_provider_that_falls_back_is_refused(device: Any, graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """onnxruntime only logs when CUDA's libraries are missing, and uses the CPU."""
    real = ort.InferenceSession
    pretend_provider(monkeypatch, lambda path, options, **_: real(path, options, providers=["CPUExecutionProvider"]))
    with pytest.raises(EngineError, match="CPUExecutionProvider was given"):
        open_session(graph, device=device)


def test_provider_options_and_settings_of_kernels_reach_onnxruntime(
    graph: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def refuse(path: str, options: Any, *, providers: list[Any], enable_fallback: int) -> None:
        assert not enable_fallback  # it would print the provider's failure and use the CPU, now and in later runs
        asked.append(providers)
        raise RuntimeError("no GPU")

    monkeypatch.delenv("ORT_MIN_SEQ_LEN_FLASH_ATTENTION_PACKED_QKV", raising=False)
    monkeypatch.setattr(sessions.os, "environ", dict(sessions.os.environ))
    pretend_provider(monkeypatch, refuse)
    with pytest.raises(EngineError, match="no GPU"):
        GpuBackend(graph, provider_options={"use_tf32": "0"}, graph_shapes=[(1, 16)])
    with pytest.raises(EngineError, match="no GPU"):
        open_session(graph, device="tensorrt", provider_options={"trt_fp16_enable": "True"})
    assert asked[0] == [("CUDAExecutionProvider", {"use_tf32": "0", "enable_cuda_graph": "1"})]
    assert asked[1] == [("TensorrtExecutionProvider", {"trt_fp16_enable": "True"}), ("CUDAExecutionProvider", {})]
    assert sessions.os.environ["ORT_MIN_SEQ_LEN_FLASH_ATTENTION_PACKED_QKV"] == "0"


@pytest.mark.parametrize("graph_shapes", [(), [(1, 16), (4, 32), (2, 64)]], ids=["plain", "graphs"])
def test_bound_buffers_give_the_plain_outputs(
    graph: Path, batches: list[Batch], plain: list[np.ndarray], graph_shapes: Any
) -> None:
    """In any order, so that an array left over from a larger batch would show."""
    backend = GpuBackend(graph, device="cpu", graph_shapes=graph_shapes)
    for i in (0, 1, 2, 3, 4, 1, 0, 2):
        logits = backend.run(batches[i])["logits"]
        assert np.abs(logits[: len(plain[i])] - plain[i]).max() < 1e-5
        kept = logits.copy()
        backend.run(batches[(i + 1) % len(batches)])
        np.testing.assert_array_equal(logits, kept)  # the next batch does not overwrite it


def test_a_batch_takes_the_smallest_graph_that_it_fits(graph: Path, batches: list[Batch]) -> None:
    backend = GpuBackend(graph, device="cpu", graph_shapes=[(1, 16), (4, 32), (2, 64)])
    rows = [len(backend.run(batch)["logits"]) for batch in batches]
    # 1 x 3 → 1 x 16; 4 x 17 → 4 x 32; 1 x 64 → 2 x 64; 2 x 1 → 2 x 64, as large as 4 x 32; 3 x 40 fits none.
    assert rows == [1, 4, 2, 2, 3]


def test_streams_run_at_the_same_time_with_buffers_of_their_own(
    graph: Path, batches: list[Batch], plain: list[np.ndarray]
) -> None:
    backend = GpuBackend(graph, device="cpu", streams=3, threads=1, graph_shapes=[(2, 16)])
    chosen = [i % len(batches) for i in range(60)]
    with ThreadPoolExecutor(6) as pool:
        results = list(pool.map(lambda i: backend.run(batches[i])["logits"], chosen))
    for i, logits in zip(chosen, results, strict=True):
        assert np.abs(logits[: len(plain[i])] - plain[i]).max() < 1e-5


def test_a_stream_is_free_again_after_a_failure(graph: Path, batches: list[Batch], plain: list[np.ndarray]) -> None:
    backend = GpuBackend(graph, device="cpu")
    with pytest.raises(KeyError):
        backend.run(Batch({"input_ids": batches[0].feeds["input_ids"]}, ()))
    assert np.abs(backend.run(batches[0])["logits"] - plain[0]).max() < 1e-5


def test_host_buffers_grow_and_are_used_again() -> None:
    buffers = HostBuffers(page_locked=True)  # where there is no CUDA, memory of the usual kind
    small = buffers.get("ids", (2, 3), np.int64)
    small[:] = 7
    again = buffers.get("ids", (3, 2), np.int64)
    assert again.ctypes.data == small.ctypes.data
    assert (again == 7).all()
    large = buffers.get("ids", (1000, 1000), np.int64)
    large[:] = 1
    assert large.sum() == 10**6
    assert (small == 7).all()  # whoever holds an outgrown buffer keeps it
    assert buffers.get("mask", (2, 3), np.int32).ctypes.data != large.ctypes.data


@pytest.mark.gpu
def test_host_buffers_are_page_locked_beside_a_gpu(graph: Path) -> None:
    GpuBackend(graph)  # loads CUDA's runtime
    runtime = ctypes.CDLL("libcudart.so.13")
    memory = HostBuffers(page_locked=True).get("ids", (1000,), np.int64)
    # A second registration of the same memory is an error: cudaErrorHostMemoryAlreadyRegistered.
    assert runtime.cudaHostRegister(ctypes.c_void_p(memory.ctypes.data), ctypes.c_size_t(memory.nbytes), 0) == 712
    runtime.cudaGetLastError()  # clears it: the next kernel of this process would report it


def test_a_file_that_is_no_graph_is_an_engine_error(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"no graph")
    with pytest.raises(EngineError, match="cannot load"):
        OnnxRuntimeBackend(tmp_path / "model.onnx")
