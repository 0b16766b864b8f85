"""LoRA, AdaLoRA and IA3 on every family of encoders and every task; a prefix works, or is refused in one line."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from kit.encoders import FAMILIES, tiny_encoder
from kit.generative import build_seq2seq
from transformers import (
    AutoConfig,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PreTrainedModel,
)

from tuneport.errors import TuneportError
from tuneport.modeling.heads import PooledClassifier
from tuneport.stages.finetune.config import FinetuneConfig
from tuneport.stages.finetune.setup import load_model, make_trainer, prepare
from tuneport.stages.finetune.strategies.peft import head_modules
from tuneport.stages.finetune.strategies.strategies import apply_strategy, finish_strategy
from tuneport.stages.finetune.train import finetune

Settings = Callable[..., FinetuneConfig]
KINDS: dict[str, Any] = {
    "text-classification": AutoModelForSequenceClassification,
    "token-classification": AutoModelForTokenClassification,
    "question-answering": AutoModelForQuestionAnswering,
}
IDS = torch.tensor([[2, 6, 7, 8, 3], [2, 9, 8, 7, 3]])


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {family: tiny_encoder(tmp_path_factory.mktemp(family), family) for family in FAMILIES}


def _outputs(model: Any) -> torch.Tensor:
    outputs = model(input_ids=IDS, attention_mask=torch.ones_like(IDS))
    return torch.cat([each for each in outputs.values() if torch.is_tensor(each)][:2], -1)


def _check_learns_and_merges(model: PreTrainedModel, config: FinetuneConfig) -> None:
    """Only the layers and the whole head learn; merged, the model answers as before, under its old names."""
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    heads = head_modules(model)
    assert heads
    wrapped = apply_strategy(model, config)
    optimizer = torch.optim.SGD([p for p in wrapped.parameters() if p.requires_grad], lr=0.5)
    for _ in range(2):  # B of LoRA begins at 0, and so does A's gradient
        optimizer.zero_grad()
        _outputs(wrapped.train()).square().sum().backward()
        optimizer.step()
    with torch.inference_mode():
        trained = _outputs(wrapped.eval())
        merged = finish_strategy(wrapped).eval()
        assert torch.allclose(trained, _outputs(merged), rtol=1e-4, atol=1e-4)
    after = merged.state_dict()
    assert after.keys() == before.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert {name.partition(".")[0] for name in changed} > set(heads)
    inside = [name for name in changed if name.partition(".")[0] not in heads]
    assert inside
    assert not [name for name in inside if "layer" not in name]


@pytest.mark.parametrize("strategy", ["lora", "adalora", "ia3"])
@pytest.mark.parametrize("task", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_learns_and_is_merged(
    settings: Settings, bases: dict[str, Path], family: str, task: str, strategy: str
) -> None:
    config = settings(task=task, strategy=strategy)
    _check_learns_and_merges(KINDS[task].from_pretrained(bases[family]), config)


@pytest.mark.parametrize("strategy", ["lora", "adalora", "ia3"])
def test_attention_pooling_is_not_taken_for_attention(
    settings: Settings, bases: dict[str, Path], strategy: str
) -> None:
    model = PooledClassifier.from_encoder(
        str(bases["bert"]),
        "attention",
        encoder_config=AutoConfig.from_pretrained(bases["bert"]),
        trust_remote_code=False,
    )
    assert head_modules(model) == ["attention", "classifier"]
    _check_learns_and_merges(model, settings(strategy=strategy, pooling="attention"))


def test_a_run_that_is_resumed_or_was_better_before_has_its_head_again(settings: Settings, tmp_path: Path) -> None:
    """What the Trainer saves and loads of a wrapped model is all that learns."""
    config = settings(strategy="lora", pooling="attention", save_strategy="steps", save_steps=2, max_steps=2)
    prepared = prepare(config)
    trainer = make_trainer(prepared, tmp_path, load_model(prepared))
    trainer.train()
    learnt = {name: p.detach().clone() for name, p in trainer.model.named_parameters() if p.requires_grad}
    again = make_trainer(prepared, tmp_path, load_model(prepared))
    again._load_from_checkpoint(str(tmp_path / "trainer" / "checkpoint-2"))
    parameters = dict(again.model.named_parameters())
    assert [name for name in learnt if "classifier" in name]
    assert not [name for name in learnt if not torch.equal(learnt[name], parameters[name])]
    assert {name for name, parameter in parameters.items() if parameter.requires_grad} == learnt.keys()
    for name in learnt:
        parameters[name].data.zero_()
    again.state.best_global_step = 2
    again._load_best_model()
    assert not [name for name in learnt if not torch.equal(learnt[name], parameters[name])]


@pytest.mark.parametrize("task", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_prefix_learns_or_is_refused_in_one_line(
    settings: Settings, bases: dict[str, Path], family: str, task: str
) -> None:
    model, config = KINDS[task].from_pretrained(bases[family]), settings(task=task, strategy="prefix")
    if family == "bert" or (family in ("roberta", "electra") and task != "text-classification"):
        wrapped = apply_strategy(model, config)
        assert all(parameter.grad is None for parameter in wrapped.parameters())  # the trial left none
        _outputs(wrapped.train()).square().sum().backward()
        prefix = [p for name, p in wrapped.named_parameters() if "prompt_encoder" in name and p.requires_grad]
        assert prefix
        assert all(p.grad is not None and p.grad.any() for p in prefix)
        return
    with pytest.raises(TuneportError) as error:
        apply_strategy(model, config)
    assert str(error.value).startswith(f"strategy = prefix does not work with {type(model).__name__}")
    assert str(error.value).endswith("use strategy = lora, adalora, ia3 or full")
    assert "\n" not in str(error.value)


def test_a_prefix_is_refused_before_training(settings: Settings, tmp_path: Path) -> None:
    model = build_seq2seq(tmp_path / "base", "bart")
    with pytest.raises(TuneportError, match="strategy = prefix does not work with BartForSequenceClassification"):
        finetune(settings(model=str(model), strategy="prefix"), tmp_path / "run")


def test_target_modules_that_are_not_there_are_refused(settings: Settings, bases: dict[str, Path]) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(bases["distilbert"])
    with pytest.raises(TuneportError) as error:
        apply_strategy(model, settings(strategy="lora", target_modules=("q_lin", "query", "classifier")))
    assert str(error.value) == (
        "target_modules names query, classifier, and the linear layers of DistilBertForSequenceClassification are "
        "k_lin, lin1, lin2, out_lin, q_lin, v_lin; name some of these"
    )
    wrapped = apply_strategy(model, settings(strategy="lora", target_modules=("attention.q_lin",)))
    names = {name for name, parameter in wrapped.named_parameters() if parameter.requires_grad and "lora" in name}
    assert len(names) == 2 * 2
    assert all(".q_lin." in name for name in names)
