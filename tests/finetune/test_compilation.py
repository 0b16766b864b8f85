"""torch.compile: the same training, whatever is trained; errors of the compiler; the time of the first step."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from accelerate.utils import DynamoBackend
from torch._dynamo.exc import InternalTorchDynamoError
from transformers import TrainerCallback

from tuneport.errors import EngineError, TuneportError
from tuneport.stages.finetune.config import FinetuneConfig
from tuneport.stages.finetune.fit import fit
from tuneport.stages.finetune.setup import evaluate, load_model, make_trainer, prepare
from tuneport.stages.finetune.train import finetune

Settings = Callable[..., FinetuneConfig]


class _Models(TrainerCallback):
    """Keeps the classes of the models that steps ran, which is that of a compiled one."""

    def __init__(self, trainer: Any) -> None:
        self.trainer, self.names = trainer, set[str]()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.names.add(type(self.trainer.model_wrapped).__name__)


def _train(config: FinetuneConfig, out: Path) -> dict[str, float]:
    """Train; compiled without code generation, which takes minutes of a C++ compiler."""
    prepared = prepare(config)
    trainer = make_trainer(prepared, out, load_model(prepared))
    if config.torch_compile:
        assert trainer.accelerator.state.dynamo_plugin.backend == DynamoBackend.INDUCTOR
        trainer.accelerator.state.dynamo_plugin.backend = DynamoBackend.AOT_EAGER
    models = _Models(trainer)
    trainer.add_callback(models)
    trainer = fit(trainer, prepared, out)
    assert models.names == ({"OptimizedModule"} if config.torch_compile else {type(trainer.model).__name__})
    trainer.model = trainer.model_wrapped = trainer.accelerator.unwrap_model(trainer.model)
    return evaluate(trainer, prepared, "test").metrics


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"adversarial_epsilon": 0.3, "gradient_accumulation_steps": 2},
        {"gradient_checkpointing": True},
        {"pooling": "attention"},
        {"strategy": "lora"},
        {"strategy": "adalora", "label_smoothing_factor": 0.1},
    ],
    ids=str,
)
def test_a_compiled_model_trains_as_one_that_is_not(
    settings: Settings, tmp_path: Path, changes: dict[str, Any]
) -> None:
    config = settings(max_steps=6, dropout=0.0, bf16=False, optim="sgd", learning_rate=0.05, **changes)
    plain = _train(config, tmp_path / "plain")
    compiled = _train(config.model_copy(update={"torch_compile": True}), tmp_path / "compiled")
    assert compiled == pytest.approx(plain, rel=1e-4)


def test_what_cannot_be_compiled_is_an_error_with_its_remedy(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise InternalTorchDynamoError("no working C++ compiler")

    monkeypatch.setattr("tuneport.stages.finetune.trainer.TuneportTrainer.train", fail)
    with pytest.raises(EngineError, match=r"cannot compile this model .no working.*; leave torch_compile out"):
        finetune(settings(torch_compile=True), tmp_path / "run")


def test_unfreezing_would_compile_again_in_each_epoch(settings: Settings) -> None:
    with pytest.raises(TuneportError, match="leave out torch_compile"):
        settings(strategy="gradual", torch_compile=True)
