"""torch on the device of the variants: where it runs, how it multiplies, and what is refused."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from kit.command import assert_one_line, tuneport
from kit.data import read_rows
from kit.exports import export_variants
from torch import nn

from tuneport.errors import CheckpointError, EngineError
from tuneport.runtime.backends.generative import GenerativeRunner
from tuneport.runtime.batch import EncodedInput
from tuneport.runtime.tasks.generation import GenerationTask, Prompt
from tuneport.runtime.tasks.sampling import SamplingParams
from tuneport.schema.artifact import Processing
from tuneport.schema.loading import load_manifest
from tuneport.schema.torch_setup import CPU_REFERENCE, REFERENCE, TorchSetup
from tuneport.stages.export.checkpoint import open_checkpoint
from tuneport.stages.export.device import check_device
from tuneport.stages.export.passes.distill import Distiller
from tuneport.stages.export.reference import TorchModel
from tuneport.stages.export.torch_device import TORCH_DEVICES, TorchOutOfMemory, check_torch, kernels, on_cpu
from tuneport.tasks import task_spec

META = "meta"
ROWS = [EncodedInput([2, 5, 6, 7, 3], [0] * 5, False), EncodedInput([2, 9, 3], [0] * 3, False)]


@pytest.fixture
def _tf32_settings() -> Iterator[None]:
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    yield
    matmul.allow_tf32, cudnn.allow_tf32 = before


@pytest.fixture
def model(tiny_checkpoint: Path) -> TorchModel:
    return load(tiny_checkpoint)


def load(folder: Path, setup: TorchSetup = CPU_REFERENCE) -> TorchModel:
    checkpoint = open_checkpoint(folder)
    return TorchModel(checkpoint, task_spec(checkpoint.task).task_class("export")(checkpoint), setup)


def tf32_settings() -> tuple[bool, bool]:
    return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32


@pytest.mark.parametrize("enabled", [False, True])
def test_cudnn_s_attention_is_set_for_every_run_and_restored(model: TorchModel, enabled: bool) -> None:
    before = torch.backends.cuda.cudnn_sdp_enabled()
    model = model.with_setup(TorchSetup(cudnn_attention=enabled))
    seen = []
    model.model.register_forward_pre_hook(lambda *_: seen.append(torch.backends.cuda.cudnn_sdp_enabled()))
    model.run_batch(ROWS)
    assert set(seen) == {enabled}
    assert torch.backends.cuda.cudnn_sdp_enabled() == before


def test_tensorrt_s_reference_is_torch_on_cuda() -> None:
    assert TORCH_DEVICES == {"cpu": "cpu", "cuda": "cuda", "tensorrt": "cuda"}


def test_torch_without_cuda_is_an_error_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(EngineError, match=r"built without CUDA.*install a build of torch with CUDA"):
        check_torch("cuda")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(EngineError, match=r"CUDA 13\.0 finds no GPU.*nvidia-smi"):
        check_torch("cuda")
    check_torch("cpu")


def test_an_export_for_cuda_needs_torch_with_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """The provider is there, and torch has no CUDA."""
    monkeypatch.setattr("tuneport.stages.export.device.open_session", lambda *_, **__: None)
    monkeypatch.setattr(torch.version, "cuda", None)
    for device in ("cuda", "tensorrt"):
        with pytest.raises(EngineError, match="built without CUDA"):
            check_device(device)  # type: ignore[arg-type]
    check_device("cpu")


@pytest.mark.skipif(torch.version.cuda is not None, reason="this torch has CUDA")
def test_bench_on_cuda_without_cuda_is_one_line(artifact: Path, tmp_path: Path) -> None:
    manifest = load_manifest(artifact)
    execution = manifest.variants[0].execution.model_copy(update={"device": "cuda"})
    variant = manifest.variants[0].model_copy(update={"execution": execution})
    manifest.model_copy(update={"variants": (variant, *manifest.variants[1:])}).save(artifact)
    answer = tuneport("bench", artifact, "--out", tmp_path / "report", "--device", "cuda")
    assert answer.code == 1
    assert_one_line(answer.err.splitlines()[-1] + "\n", "built without CUDA")


@pytest.mark.usefixtures("_tf32_settings")
@pytest.mark.parametrize("tf32", [False, True])
def test_tf32_is_set_for_every_run_and_restored(model: TorchModel, tf32: bool) -> None:
    """Whatever the process has set, because torch's settings are global."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = not tf32
    model = model.with_setup(TorchSetup(tf32=tf32))
    seen = []
    model.model.register_forward_pre_hook(lambda *_: seen.append(tf32_settings()))
    model.run_batch(ROWS)
    assert set(seen) == {(tf32, tf32)}
    assert tf32_settings() == (not tf32, not tf32)


@pytest.mark.usefixtures("_tf32_settings")
def test_tf32_is_restored_after_a_failure() -> None:
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = True, False
    with kernels(TorchSetup()):
        assert tf32_settings() == (False, False)
    with pytest.raises(RuntimeError, match="x"), kernels(TorchSetup()):
        raise RuntimeError("x")
    assert tf32_settings() == (True, False)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_outputs_are_float32_arrays_on_the_host(model: TorchModel, precision: Any) -> None:
    other = model.with_setup(TorchSetup(precision=precision))
    logits = other.run_batch(ROWS)["logits"]
    assert (type(logits), logits.dtype, logits.shape) == (np.ndarray, np.float32, (2, 3))
    exact = model.run_batch(ROWS)["logits"]
    tolerance = {"fp32": 0.0, "bf16": 0.5, "fp16": 0.1}[precision]
    assert float(np.abs(logits - exact).max()) <= tolerance
    assert (precision == "fp32") == bool((logits == exact).all())
    assert other.setup.attention == "sdpa"


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_lower_precision_runs_batches_though_padding_changes_its_rounding(model: TorchModel, precision: Any) -> None:
    """Rows one at a time would make torch the slower side of every comparison."""
    other = model.with_setup(TorchSetup(precision=precision))
    shapes: list[tuple[int, ...]] = []

    def record(*inputs: Any) -> None:
        shapes.append(tuple(inputs[2]["input_ids"].shape))
        other.model.classifier.bias.data += 0.01 * (shapes[-1][1] - 3)  # other lengths, other kernels

    other.model.register_forward_pre_hook(record, with_kwargs=True)
    other.run_batch(ROWS)
    assert shapes == [(2, 5)]


def test_too_little_memory_for_a_batch_is_no_error_of_the_checkpoint(model: TorchModel) -> None:
    """The benchmark then tries smaller batches, and the reference runs its inputs one at a time; one must fit."""
    task: Any = SimpleNamespace(per_token=False)
    expected = model.outputs(task, ["bank", "the team won"])

    def allocate(*inputs: Any) -> None:
        if len(inputs[2]["input_ids"]) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    model.model.register_forward_pre_hook(allocate, with_kwargs=True)
    with pytest.raises(TorchOutOfMemory, match=r"torch fp32 runs out of memory on 2 inputs of 5 tokens") as caught:
        model.run_batch(ROWS)
    assert (caught.value.name, caught.value.rows) == ("torch fp32", 2)
    for ours, theirs in zip(model.outputs(task, ["bank", "the team won"]), expected, strict=True):
        assert np.abs(ours[0]["logits"] - theirs[0]["logits"]).max() < 1e-5


def test_one_input_that_does_not_fit_is_an_error_with_its_remedy(model: TorchModel) -> None:
    task: Any = SimpleNamespace(per_token=False)
    model.outputs(task, ["bank"])

    def allocate(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    model.model.register_forward_pre_hook(allocate)
    with pytest.raises(TorchOutOfMemory, match=r"on 1 input of \d+ tokens; free memory on the device.*--max-length"):
        model.outputs(task, ["bank"])


def test_weights_that_do_not_fit_are_an_error_with_its_remedy(
    model: TorchModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def move(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(nn.Module, "to", move)
    with pytest.raises(TorchOutOfMemory, match="torch bf16 runs out of memory on its weights; free memory"):
        model.with_setup(TorchSetup(precision="bf16"))


def test_setups_of_one_precision_share_the_weights(model: TorchModel) -> None:
    assert model.with_setup(TorchSetup(tf32=True)).model is model.model
    assert model.with_setup(TorchSetup(precision="bf16")).model is not model.model
    assert {each.dtype for each in model.model.parameters()} == {torch.float32}
    assert model.setup.name == REFERENCE == "torch fp32"


class Recorder(nn.Linear):
    """A layer that records where it is moved."""

    def __init__(self) -> None:
        super().__init__(1, 1)
        self.moves: list[str] = []

    def to(self, device: Any) -> "Recorder":  # type: ignore[override]
        self.moves.append(str(device))
        return self


def test_a_model_is_converted_on_the_cpu_and_moved_back_even_after_a_failure() -> None:
    layer = Recorder()
    layer.weight = nn.Parameter(torch.empty(1, 1, device="meta"))
    with on_cpu(layer):
        assert layer.moves == ["cpu"]
    with pytest.raises(ValueError, match="x"), on_cpu(layer):
        raise ValueError("x")
    assert layer.moves == ["cpu", "meta"] * 2


# The device `meta` has shapes and no data. There, too, a module refuses inputs of another device.


@pytest.fixture
def on_meta(model: TorchModel) -> TorchModel:
    """The tiny classifier on a device that is not the host."""
    model.model.bert.attn_implementation = "eager"  # BERT's own looks at values of the mask, and meta has none
    return model.with_setup(TorchSetup().model_copy(update={"device": META}))


def test_feeds_go_to_the_model_s_device(on_meta: TorchModel) -> None:
    feeds = on_meta.encode(["bank", "the team won the game"])
    assert {str(values.device) for values in feeds.values()} == {META}
    assert str(on_meta.model(**feeds).logits.device) == META
    with pytest.raises(RuntimeError, match="not on the expected device"):
        on_meta.model(torch.tensor([[2, 5, 3]]))
    with pytest.raises(CheckpointError, match="meta"):  # the copy of the outputs to the host
        on_meta.run_batch(ROWS)


def test_a_pruned_model_is_distilled_on_the_model_s_device(on_meta: TorchModel) -> None:
    distiller = Distiller(on_meta, ["bank", "the team won"], per_token=False, seed=0)
    student = distiller.full.without(1)
    assert distiller.train(student, steps=0, seconds=1) == 0
    assert {str(each.device) for each in student.model.parameters()} == {META}
    assert str(distiller._loss(student, on_meta.encode(["bank", "the team won"])).device) == META


def test_prompts_go_to_the_generative_model_s_device() -> None:
    seen = []

    def generate(*, input_ids: torch.Tensor, attention_mask: torch.Tensor, **_: Any) -> torch.Tensor:
        seen.extend([str(input_ids.device), str(attention_mask.device)])
        return torch.tensor([[0, 5, 6, 1], [0, 7, 1, 0]])

    config = SimpleNamespace(is_encoder_decoder=True)
    ends = SimpleNamespace(eos_token_id=1)
    model = SimpleNamespace(device=torch.device(META), generate=generate, config=config, generation_config=ends)
    processing = Processing(max_length=8, pad_token_id=0)
    runner = GenerativeRunner(mock.create_autospec(GenerationTask, instance=True), model, processing)
    outputs = runner.run_batch([Prompt([3], [0], False, sampling=SamplingParams(4)) for _ in range(2)])
    assert seen == [META, META]
    assert [each["tokens"].tolist() for each in outputs] == [[5, 6], [7]]


@pytest.mark.gpu
def test_an_export_for_cuda_has_its_reference_on_cuda(tiny_checkpoint: Path, tiny_data: Path, tmp_path: Path) -> None:
    manifest = export_variants(tiny_checkpoint, tiny_data, tmp_path / "out", device="cuda")
    assert manifest.torch.device == "cuda"
    assert not manifest.torch.tf32
    assert {variant.execution.device for variant in manifest.variants} == {"cuda"}
    for variant in manifest.variants:
        assert variant.evidence.footprint.gpu_memory_mib
        if variant.execution.precision == "fp32":
            assert variant.evidence.parity.max_abs_diff <= 1e-3
    expected = load(tiny_checkpoint)
    texts = [row["text"] for row in read_rows(tiny_data / "validation.jsonl")[:8]]
    on_gpu = load(tiny_checkpoint, TorchSetup(device="cuda"))
    feeds = expected.encode(texts)
    assert next(on_gpu.model.parameters()).device.type == "cuda"
    assert on_gpu.model(
        **{name: values.cuda() for name, values in feeds.items()}
    ).logits.detach().cpu().numpy() == pytest.approx(expected.model(**feeds).logits.detach().numpy(), abs=1e-3)


@pytest.mark.gpu
def test_a_pruned_model_is_distilled_on_cuda_and_converted(
    tiny_checkpoint: Path, tiny_data: Path, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"device": "cuda", "prune_layers": 1, "distill_steps": 30, "max_drop": 1.0}
    manifest = export_variants(tiny_checkpoint, tiny_data, tmp_path / "out", "fp32", "pruned", **settings)
    names = {variant.name for variant in manifest.variants} | {each.name for each in manifest.rejected}
    assert names == {"fp32", "pruned"}
    assert all("cannot be built" not in each.reason for each in manifest.rejected)
