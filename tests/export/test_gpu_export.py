"""An export for CUDA from the checkpoint to a verified artifact; only the kernels are not a GPU's."""

from pathlib import Path
from typing import Any

import pytest
from kit.exports import export_variants, quick_exports
from kit.pretended_gpu import PretendedGpu, pretend_gpu
from kit.reference import TorchReference

from tuneport.gpu import Gpu
from tuneport.host import Host
from tuneport.runtime.backends.tensorrt import key_of, profile_options
from tuneport.runtime.batch import EncodedInput
from tuneport.runtime.predictor import Predictor
from tuneport.runtime.verify import verify
from tuneport.schema.artifact import Manifest
from tuneport.stages.export import alternatives
from tuneport.stages.export.applicable import select_variants
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


@pytest.mark.parametrize(("capability", "has_bf16"), [("7.5", False), ("8.0", True), ("10.0", True)])
def test_bf16_needs_a_gpu_that_has_it(monkeypatch: pytest.MonkeyPatch, capability: str, has_bf16: bool) -> None:
    host = Host.here().model_copy(update={"gpus": (H100.model_copy(update={"compute_capability": capability}),)})
    monkeypatch.setattr(Host, "here", lambda: host)
    assert ("bf16" in select_variants((), "cuda")) == has_bf16
