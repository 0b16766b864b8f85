"""The precision, the workers and the GPUs of a run: chosen by the device, or refused, and recorded."""

import functools
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from kit.data import write_splits
from torch.utils.data import DataLoader
from transformers import TrainingArguments

from tuneport.errors import EngineError
from tuneport.schema.run import Throughput, Training
from tuneport.stages.finetune import device as device_module
from tuneport.stages.finetune.arguments import training_arguments
from tuneport.stages.finetune.config import FinetuneConfig
from tuneport.stages.finetune.device import Device, Precision, choose_precision, count_workers, device_warnings
from tuneport.stages.finetune.setup import load_model, make_trainer, prepare
from tuneport.stages.finetune.strategies.strategies import make_optimizer
from tuneport.stages.finetune.train import finetune

Settings = Callable[..., FinetuneConfig]
H100 = Device("cuda", "NVIDIA H100", has_bf16=True, has_tf32=True, gpus=1)
T4 = Device("cuda", "Tesla T4", has_bf16=False, gpus=1)
CPU = Device("cpu", "a processor", has_bf16=False)
CPU_WITH_BF16 = Device("cpu", "a processor", has_bf16=True)


@pytest.mark.parametrize(
    ("device", "changes", "precision"),
    [
        (H100, {}, Precision("bf16", True)),
        (H100, {"bf16": False}, Precision("fp32", True)),
        (H100, {"bf16": False, "tf32": False}, Precision("fp32", False)),
        (H100, {"fp16": True}, Precision("fp16", True)),
        (T4, {}, Precision("fp32", False)),
        (T4, {"fp16": True}, Precision("fp16", False)),
        (T4, {"tf32": False}, Precision("fp32", False)),
        (CPU, {}, Precision("fp32", False)),
        (CPU, {"bf16": True}, Precision("bf16", False)),
        (CPU_WITH_BF16, {}, Precision("bf16", False)),
        (CPU_WITH_BF16, {"bf16": False}, Precision("fp32", False)),
    ],
)
def test_the_device_decides_the_precision(
    settings: Settings, device: Device, changes: dict[str, Any], precision: Precision
) -> None:
    assert choose_precision(settings(**changes), device) == precision


@pytest.mark.parametrize(
    ("device", "changes", "message"),
    [
        (T4, {"bf16": True}, "Tesla T4 has no bf16 instructions; leave bf16 out, or set fp16 = true"),
        (T4, {"tf32": True}, "TF32 needs a GPU of compute capability 8.0 .* on Tesla T4; leave tf32 out"),
        (CPU, {"tf32": True}, "TF32 needs a GPU .* would train on a processor; leave tf32 out"),
        (CPU_WITH_BF16, {"fp16": True}, "fp16 needs a GPU, and this run would train on a processor; leave fp16 out"),
    ],
)
def test_what_the_device_lacks_is_refused(
    settings: Settings, device: Device, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(EngineError, match=message):
        choose_precision(settings(**changes), device)


def test_a_run_is_refused_before_its_data_is_read(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tuneport.stages.finetune.setup.read_data", None)
    with pytest.raises(EngineError, match="fp16 needs a GPU"):
        prepare(settings(fp16=True))


def test_unused_speed_is_said(settings: Settings) -> None:
    assert device_warnings(settings(), T4, 1) == (
        "Tesla T4 has no bf16 instructions, so training is in fp32; fp16 = true is faster",
    )
    for changes in ({"fp16": True}, {"bf16": False}):
        assert device_warnings(settings(**changes), T4, 1) == ()
    four = Device("cuda", "NVIDIA H100", has_bf16=True, has_tf32=True, gpus=4)
    (warning,) = device_warnings(settings(), four, 1)
    assert "one of 4 GPUs" in warning
    assert "torchrun --nproc-per-node 4 -m tuneport finetune" in warning
    assert device_warnings(settings(), four, 4) == device_warnings(settings(), H100, 1) == ()


@pytest.mark.parametrize(("processes", "capabilities", "is_modern"), [
    (1, [(9, 0), (7, 5)], True), (2, [(9, 0), (7, 5)], False), (1, [(7, 5)], False), (2, [(8, 6), (8, 0)], True),
])  # fmt: skip
def test_processes_on_unlike_gpus_choose_alike(
    monkeypatch: pytest.MonkeyPatch, processes: int, capabilities: list[tuple[int, int]], is_modern: bool
) -> None:
    """torch.cuda.is_bf16_supported() would be True for all of them: below 8.0 torch emulates bfloat16."""
    cuda = SimpleNamespace(
        is_available=lambda: True,
        device_count=lambda: len(capabilities),
        current_device=lambda: 0,
        get_device_capability=lambda index: capabilities[index],
        get_device_name=lambda: "a GPU",
    )
    monkeypatch.setattr(device_module, "torch", SimpleNamespace(cuda=cuda))
    monkeypatch.setattr(device_module, "processes", lambda: SimpleNamespace(num_processes=processes))
    assert Device.here() == Device("cuda", "a GPU", is_modern, is_modern, len(capabilities))


def test_a_process_trains_on_one_gpu(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainer would split the batches of a process over all GPUs that it sees, and so their losses."""

    class SeesFour(TrainingArguments):
        @functools.cached_property
        def _setup_devices(self) -> torch.device:
            self._n_gpu = 4
            return torch.device("cpu")

    prepared = prepare(settings())
    monkeypatch.setattr("tuneport.stages.finetune.arguments.TrainingArguments", SeesFour)
    arguments = training_arguments(prepared.config, prepared.task, tmp_path)
    assert (arguments.n_gpu, arguments.train_batch_size) == (1, 8)


def test_workers_prepare_the_batches_for_a_gpu(settings: Settings) -> None:
    assert [count_workers(settings(), kind) for kind in ("cpu", "cuda")] == [0, 2]
    assert [count_workers(settings(dataloader_num_workers=n), "cuda") for n in (0, 5)] == [0, 5]


@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")  # a test may have one processor
def test_workers_yield_the_same_batches(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("TOKENIZERS_PARALLELISM")
    batches = []
    for workers in (0, 2):
        prepared = prepare(settings(dataloader_num_workers=workers))
        trainer = make_trainer(prepared, tmp_path, load_model(prepared))
        loader = trainer.get_train_dataloader()
        assert isinstance(loader, DataLoader)
        assert loader.num_workers == workers
        batches.append([batch["input_ids"] for batch in loader])
    assert len(batches[0]) == 6
    assert all(torch.equal(*pair) for pair in zip(*batches, strict=True))
    assert "forked" not in capfd.readouterr().err  # tokenizers' warning, once for each worker


@pytest.mark.parametrize("optim", ["adamw_torch", "adam", "sgd"])
def test_optimizers_are_fused(settings: Settings, optim: str) -> None:
    groups = [{"params": [torch.nn.Parameter(torch.ones(2))], "lr": 1e-3, "weight_decay": 0.0}]
    assert make_optimizer(settings(optim=optim), groups, 1e-3).defaults["fused"]


def test_a_run_does_not_inherit_the_compilation_of_the_one_before(settings: Settings, tmp_path: Path) -> None:
    for compiled in (True, False):
        prepared = prepare(settings(torch_compile=compiled))
        trainer = make_trainer(prepared, tmp_path, load_model(prepared))
        backend = trainer.accelerator.state.dynamo_plugin.backend.value
        assert (backend, trainer.args.torch_compile) == (("INDUCTOR", True) if compiled else ("NO", False))
        assert os.environ["ACCELERATE_DYNAMO_BACKEND"] == ("inductor" if compiled else "no")


def _training(**changes: Any) -> Training:
    values: dict[str, Any] = {
        "device": "cuda", "device_name": "NVIDIA H100", "processes": 1, "precision": "bf16", "tf32": True,
        "compiled": False, "per_device_train_batch_size": 8, "gradient_accumulation_steps": 2, "throughput": None,
    }  # fmt: skip
    return Training.model_validate({**values, **changes})


def test_a_line_says_what_was_chosen_and_how_fast_it_was() -> None:
    assert _training().describe() == "NVIDIA H100, bf16, steps of 8 x 2 rows"
    assert _training(precision="fp32").describe().startswith("NVIDIA H100, TF32, steps")
    assert _training(precision="fp32", tf32=False).describe().startswith("NVIDIA H100, fp32, steps")
    speed = Throughput(first_step_seconds=31.04, steps_per_s=4.125, samples_per_s=2000.0, tokens_per_s=90000.4)
    assert _training(processes=2, compiled=True, throughput=speed).describe() == (
        "NVIDIA H100, bf16, compiled, steps of 8 x 2 rows in each of 2 processes; 2,000.0 samples/s, 90,000 tokens/s, "
        "4.12 steps/s after a first step of 31.0 s"
    )


def test_throughput_counts_the_steps_after_the_first_and_no_evaluations(settings: Settings, tmp_path: Path) -> None:
    prepared = prepare(
        settings(max_steps=5, eval_strategy="steps", eval_steps=2, gradient_accumulation_steps=2, group_by_length=False)
    )
    trainer = make_trainer(prepared, tmp_path, load_model(prepared))
    trainer.train()
    meter = trainer.meter
    assert (meter.steps, meter.rows) == (4, 4 * 16)
    mean_length = sum(prepared.features["train"]["length"]) / 48
    assert int(meter.tokens) == pytest.approx(64 * mean_length, rel=0.3)
    assert int(meter.tokens) < 64 * max(prepared.features["train"]["length"])  # no padding
    speed = meter.throughput(trainer.accelerator)
    assert speed is not None
    assert speed.samples_per_s / speed.steps_per_s == pytest.approx(16, rel=0.05)


@pytest.mark.gpu
@pytest.mark.parametrize("changes", [{}, {"bf16": False}, {"bf16": False, "tf32": False}, {"fp16": True}])
def test_a_gpu_trains_in_every_precision(settings: Settings, tmp_path: Path, changes: dict[str, Any]) -> None:
    run = finetune(settings(max_steps=60, **changes), tmp_path / "run")
    expected = choose_precision(settings(**changes), Device.here())
    assert (run.training.device, run.training.precision, run.training.tf32) == (
        "cuda", expected.name, expected.tf32,
    )  # fmt: skip
    assert torch.backends.cuda.matmul.allow_tf32 == expected.tf32
    assert run.metrics["test"]["accuracy"] > 0.9
    assert run.training.throughput is not None


@pytest.mark.gpu
def test_a_gpu_that_is_too_small_halves_the_batch(settings: Settings, tmp_path: Path) -> None:
    """512 MiB for a step of 2,048 rows, which takes gigabytes."""
    rows = [{"text": f"film music vote {i} " * 20, "label": "ab"[i % 2]} for i in range(2048)]
    data = write_splits(tmp_path / "data", train=rows, validation=rows[:8])
    config = settings(data=str(data), per_device_train_batch_size=2048, max_steps=2)
    torch.cuda.set_per_process_memory_fraction(2**29 / torch.cuda.get_device_properties(0).total_memory)
    try:
        training = finetune(config, tmp_path / "run").training
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert training.per_device_train_batch_size < 2048
    assert training.per_device_train_batch_size * training.gradient_accumulation_steps == 2048
