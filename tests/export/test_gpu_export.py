"""An export for CUDA from the checkpoint to a verified artifact; only the kernels are not a GPU's."""

import itertools
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from kit.exports import Prepared, export_variants, quick_exports, reuse_conversion
from kit.nvml import FakeGpu, FakeNvml
from kit.pretended_gpu import ENGINE_KEY, PretendedGpu, pretend_gpu
from kit.reference import TorchReference

from tuneport.errors import EngineError
from tuneport.gpu import VISIBLE, Gpu
from tuneport.host import Host
from tuneport.runtime.backends import gpu
from tuneport.runtime.backends.captured import CapturedShape
from tuneport.runtime.backends.libraries import has_tensorrt
from tuneport.runtime.backends.tensorrt import engine_options, key_of, profile_options
from tuneport.runtime.batch import Batch, EncodedInput, Output
from tuneport.runtime.predictor import Predictor
from tuneport.runtime.verify import verify
from tuneport.schema.artifact import Execution, File, Manifest, Shape
from tuneport.stages.export import alternatives, pipeline
from tuneport.stages.export.applicable import select_variants
from tuneport.stages.export.build import Passed
from tuneport.stages.export.config import ExportConfig
from tuneport.stages.export.pipeline import export
from tuneport.stages.export.provider_options import graph_shapes, provider_options
from tuneport.stages.export.variants import VARIANTS

TEXTS = ["bank", "the team won the game", "Größe 🙂"]
H100 = Gpu(name="NVIDIA H100 80GB HBM3", compute_capability="9.0", memory_gib=79.6)


@pytest.fixture(scope="module")
def exported(tiny_checkpoint: Path, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    out = tmp_path_factory.mktemp("cuda") / "tiny"
    with pytest.MonkeyPatch.context() as patch, quick_exports():
        found = pretend_gpu(patch)
        manifest = export_variants(tiny_checkpoint, tiny_data, out, *CUDA_VARIANTS, device="cuda")
    return out, manifest, found


CUDA_VARIANTS = ("fp32", "fp16", "fp16-packed", "fp16-packed-mha")


def test_all_variants_for_cuda_pass_their_gate(exported: tuple[Path, Manifest, PretendedGpu]) -> None:
    _, manifest, found = exported
    assert [each.name for each in manifest.variants] == list(CUDA_VARIANTS)
    assert manifest.rejected == ()
    for variant in manifest.variants:
        assert variant.execution.device == "cuda"
        assert variant.evidence.parity.agreement > 0.99
        assert found.options[variant.name]["use_tf32"] == "0"
        # cuDNN's attention builds a plan for each new shape, in the middle of requests.
        assert ("sdpa_kernel" in found.options[variant.name]) == (variant.name in ("fp16", "bf16"))
        assert not int(found.options[variant.name].get("sdpa_kernel", "0")) & 8
        assert variant.execution.provider_options == found.options[variant.name]
        assert variant.execution.min_compute_capability == "7.5"
    layouts = {each.name: each.execution.layout for each in manifest.variants}
    assert layouts == {"fp32": "padded", "fp16": "padded", "fp16-packed": "packed", "fp16-packed-mha": "packed"}


def test_among_unlike_gpus_an_export_uses_the_first_that_has_kernels(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CUDA's own first one is the fastest, and the manifest would describe another one."""
    old, small = FakeGpu("GPU-old", name="V100", capability=(7, 0)), FakeGpu("GPU-small", name="A2", capability=(8, 6))
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml(old, small, FakeGpu("GPU-fast")))
    monkeypatch.setattr(os, "environ", os.environ.copy())
    os.environ.pop(VISIBLE, None)

    def check(device: str) -> None:
        assert [gpu.name for gpu in Host.here().gpus] == ["A2"]
        raise EngineError("far enough", "go on")

    monkeypatch.setattr(pipeline, "check_device", check)
    with pytest.raises(EngineError, match="far enough"):
        export(ExportConfig(checkpoint=tiny_checkpoint, device="cuda", variants=("bf16",)), tmp_path / "out")
    assert os.environ[VISIBLE] == "GPU-small"


def test_streams_and_cuda_graphs_take_part_in_the_benchmark(exported: tuple[Path, Manifest, PretendedGpu]) -> None:
    _, _, found = exported
    assert found.streams["fp16"] == {1, alternatives.GPU_STREAMS}
    assert len(found.shapes["fp16"]) == 2
    assert found.shapes["fp16-packed"] == {()}  # its shapes are those of the rows


def test_the_artifact_verifies_and_answers_as_torch_does(
    exported: tuple[Path, Manifest, PretendedGpu], tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, _, _ = exported
    pretend_gpu(monkeypatch)
    assert {name for name, *_ in verify(out)} == set(CUDA_VARIANTS)
    for name in CUDA_VARIANTS:
        labels = [each["label"] for each in Predictor(out, name).predict(TEXTS)]
        assert labels == TorchReference(tiny_checkpoint).labels(TEXTS)


def test_graph_shapes_cover_the_users_lengths() -> None:
    rows = [EncodedInput([1] * n, [0] * n, False) for n in (5, 40, 90)]
    shapes = graph_shapes(rows, max_length=128)
    assert {length for _, length in shapes} == {16, 32, 64, 96}
    assert all(count * length <= 2048 for count, length in shapes)
    assert (1, 96) in shapes
    assert (16, 96) in shapes
    assert max(length for _, length in graph_shapes(rows, max_length=80)) == 80
    assert graph_shapes([], max_length=128) == tuple((count, 16) for count in (1, 2, 4, 8, 16))


def test_tensorrt_builds_one_engine_for_all_shapes_of_requests() -> None:
    rows = [EncodedInput([1] * n, [0] * n, False) for n in (5, 40, 90)]
    inputs = ["input_ids", "attention_mask"]
    options = provider_options(VARIANTS["tensorrt-fp16"], "tensorrt", inputs, rows, 128)
    assert options == {
        "trt_fp16_enable": "True",
        "trt_profile_min_shapes": "input_ids:1x1,attention_mask:1x1",
        "trt_profile_opt_shapes": "input_ids:8x48,attention_mask:8x48",
        "trt_profile_max_shapes": "input_ids:256x128,attention_mask:256x128",
    }
    assert profile_options(["x"], typical=(2, 3), largest=(4, 5))["trt_profile_max_shapes"] == "x:4x5"


def test_engines_are_kept_by_gpu_and_versions() -> None:
    key = key_of(H100, "10.16.1", "1.31.1")
    assert key == "nvidia-h100-80gb-hbm3-sm90-tensorrt10.16.1-onnxruntime1.31.1"
    assert key != key_of(H100.model_copy(update={"compute_capability": "8.0"}), "10.16.1", "1.31.1")


def test_a_variant_in_bf16_passes_its_gate(prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_gpu(monkeypatch)
    builder = prepared.builder(tmp_path, device="cuda")
    passed = builder.build_and_validate("bf16", VARIANTS["bf16"])
    assert isinstance(passed, Passed), passed.reason
    assert passed.candidate.execution.min_compute_capability == "8.0"
    assert passed.parity.agreement > 0.99
    assert passed.parity.max_abs_diff > 0.01  # 8 bits: it was not fp32 that ran


def test_every_shape_of_a_cuda_graph_is_compared_with_the_plain_way(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shape that no golden case runs in, too."""
    used: set[Shape] = set()
    wrong: set[Shape] = set()
    run = CapturedShape.run

    def run_recorded(self: CapturedShape, batch: Batch) -> dict[str, Output]:
        used.add(self._shape)
        return {name: values + (self._shape in wrong) for name, values in run(self, batch).items()}

    pretend_gpu(monkeypatch)
    monkeypatch.setattr(CapturedShape, "run", run_recorded)
    monkeypatch.setattr(gpu, "memory_in_use", itertools.count(0, 3 * 2**20).__next__)
    lines: list[str] = []
    builder = prepared.builder(tmp_path, lines.append, device="cuda")
    passed = builder.build_and_validate("fused", VARIANTS["fused"])
    assert isinstance(passed, Passed)
    shapes = graph_shapes(builder.gate.rows, builder.processing.max_length)
    plain = passed.candidate.execution
    builder.gate.golden_difference(builder.open(plain.model_copy(update={"graph_shapes": shapes})))
    unseen = min(set(shapes) - used)

    def ways() -> list[str]:
        return [name for name, *_ in alternatives.open_alternatives(builder, passed)]

    every = ["fused", "fused, 2 streams", "fused, CUDA graphs", "fused, CUDA graphs and 2 streams"]
    assert ways() == every
    assert used == set(shapes)
    assert any("CUDA graphs take 3 MiB of GPU memory" in line for line in lines)
    assert not any("it differs" in line for line in lines)
    wrong.add(unseen)
    assert ways() == every[:2]
    assert any("fused, CUDA graphs is left out: it differs by 1" in line for line in lines)


@pytest.mark.parametrize("name", ["tensorrt-fp16", pytest.param("tensorrt-int8", marks=pytest.mark.slow)])
def test_tensorrt_builds_its_engine_into_the_artifact_and_leaves_it_as_it_is(
    prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    found = pretend_gpu(monkeypatch)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    reuse_conversion(prepared, monkeypatch)
    out = tmp_path / "artifact"
    config = {"checkpoint": prepared.config.checkpoint, "data": prepared.config.data, "device": "cuda"}
    with quick_exports():
        manifest = export(ExportConfig.model_validate({**config, "variants": ("fp32", name)}), out)
    assert [each.name for each in manifest.variants] == ["fp32", name], manifest.rejected
    execution = manifest.variant(name).execution
    assert execution.device == "tensorrt"
    engines = {Path(file.path).name for file in execution.files if f"/engines/{ENGINE_KEY}/" in file.path}
    assert engines == {"graph_sm90.engine", "sm90.timing"}
    for key, value in {"trt_fp16_enable": "True", "trt_timing_cache_enable": "True"}.items():
        assert found.options[name][key] == value
    assert ("trt_int8_enable" in found.options[name]) == (name == "tensorrt-int8")
    assert found.engines_built == 1
    # TensorRT writes its timing cache at each opening, of the export too: not where the artifact's hashes are.
    opened = found.engine_folders[name]
    assert len(opened) > 1
    assert [out.name in folder.parts or f".{out.name}.partial" in str(folder) for folder in opened] == (
        [True] + [False] * (len(opened) - 1)
    )
    verify(out)
    assert Predictor(out, name).predict(TEXTS) == Predictor(out, "fp32").predict(TEXTS) or name == "tensorrt-int8"
    verify(out)
    assert found.engines_built == 1  # each copy began with the artifact's


def tensorrt_execution(folder: Path, weights: bytes) -> Execution:
    """Write a graph and its engine for this GPU, and return how they run."""
    engines = folder / "onnx" / "t" / "engines" / ENGINE_KEY
    engines.mkdir(parents=True)
    (folder / "onnx" / "t" / "model.onnx").write_bytes(weights)
    (engines / "graph.engine").write_bytes(weights)
    paths = ("onnx/t/model.onnx", f"onnx/t/engines/{ENGINE_KEY}/graph.engine")
    files = tuple(File.of(folder, path) for path in paths)
    return Execution(engine="onnxruntime", precision="fp16", device="tensorrt", files=files)


def test_engines_of_graphs_that_differ_in_weights_alone_are_kept_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TensorRT's own file names have a hash of the graph's structure alone, so that a new version finds the old's."""
    pretend_gpu(monkeypatch)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folders = []
    for name in ("one", "two"):
        execution = tensorrt_execution(tmp_path / name, name.encode())
        for _ in range(2):  # the second time it is there
            folders.append(Path(engine_options(tmp_path / name, execution)["trt_engine_cache_path"]))
        assert (folders[-1] / "graph.engine").read_bytes() == name.encode()
    assert folders[0] == folders[1] != folders[2] == folders[3]
    assert not list((tmp_path / "cache").rglob(".partial-*"))


def test_engines_of_one_graph_for_other_shapes_are_kept_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exported again with longer inputs, the graph is the same and its engine is not."""
    pretend_gpu(monkeypatch)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folders = []
    for name, rows in (("one", 8), ("two", 16)):
        options = profile_options(["input_ids"], typical=(rows, 64), largest=(256, 128))
        execution = tensorrt_execution(tmp_path / name, b"same").model_copy(update={"provider_options": options})
        folders.append(engine_options(tmp_path / name, execution)["trt_engine_cache_path"])
    assert folders[0] != folders[1]


def test_for_another_gpu_an_engine_is_built_into_the_users_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend_gpu(monkeypatch, "nvidia-l4-sm89")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    options = engine_options(tmp_path / "a", tensorrt_execution(tmp_path / "a", b"a"))
    folder = Path(options["trt_engine_cache_path"])
    assert folder.is_relative_to(tmp_path / "cache" / "tuneport" / "tensorrt" / "nvidia-l4-sm89")
    assert list(folder.iterdir()) == []


def test_a_cache_that_cannot_be_written_is_an_error_with_its_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend_gpu(monkeypatch)
    (tmp_path / "cache").write_bytes(b"a file")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(EngineError, match="engines cannot be kept in") as caught:
        engine_options(tmp_path / "a", tensorrt_execution(tmp_path / "a", b"a"))
    assert "XDG_CACHE_HOME" in caught.value.remedy


@pytest.mark.gpu
@pytest.mark.skipif(not has_tensorrt(), reason="TensorRT is not installed")
def test_tensorrt_answers_as_torch_does_and_builds_its_engine_once(
    tiny_checkpoint: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    out = tmp_path / "artifact"
    with quick_exports():
        manifest = export_variants(tiny_checkpoint, tiny_data, out, "fp32", "tensorrt-fp16", device="cuda")
    assert [each.name for each in manifest.variants] == ["fp32", "tensorrt-fp16"], manifest.rejected
    assert any(file.path.endswith(".engine") for file in manifest.variant("tensorrt-fp16").execution.files)
    labels = [each["label"] for each in Predictor(out, "tensorrt-fp16").predict(TEXTS)]
    assert labels == TorchReference(tiny_checkpoint).labels(TEXTS)
    engines = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.engine")}
    assert engines
    Predictor(out, "tensorrt-fp16")
    assert engines == {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.engine")}
    verify(out)


@pytest.mark.parametrize(("capability", "has_bf16"), [("7.5", False), ("8.0", True), ("10.0", True)])
def test_bf16_needs_a_gpu_that_has_it(monkeypatch: pytest.MonkeyPatch, capability: str, has_bf16: bool) -> None:
    host = Host.here().model_copy(update={"gpus": (H100.model_copy(update={"compute_capability": capability}),)})
    monkeypatch.setattr(Host, "here", lambda: host)
    assert ("bf16" in select_variants((), "cuda")) == has_bf16
