"""LoRA, AdaLoRA, IA3, prefix tuning and FGM on generative models: each changes what it should, and merges or stays."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from kit.data import write_pairs
from kit.generative import build_causal, build_seq2seq
from kit.runs import take_adversarial_step
from kit.texts import pairs
from kit.tokenizers import byte_tokenizer
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

from tuneport.stages.finetune.config import FinetuneConfig
from tuneport.stages.finetune.setup import load_model, make_trainer, prepare
from tuneport.stages.finetune.train import finetune

Settings = Callable[..., FinetuneConfig]
FAMILIES = ("t5", "bart", "gpt2")
ROWS = pairs(24)
IDS = torch.tensor([[5, 6, 7, 8, 1], [9, 8, 7, 6, 1]])


@pytest.fixture(params=FAMILIES)
def generative_settings(
    request: pytest.FixtureRequest, settings: Settings, tmp_path: Path
) -> Callable[..., FinetuneConfig]:
    """Make settings of a run of a tiny generative model."""
    if request.param == "gpt2":
        texts = [{"text": f"{row['source']} : {row['target']}"} for row in ROWS]
        data = write_pairs(tmp_path / "data", texts, texts[:4])
        model = build_causal(tmp_path / "base", "gpt2", byte_tokenizer([row["text"] for row in texts]))
    else:
        data = write_pairs(tmp_path / "data", ROWS, ROWS[:4])
        model = build_seq2seq(tmp_path / "base", request.param)
    task = "text-generation" if request.param == "gpt2" else "translation"
    common: dict[str, Any] = {"task": task, "model": str(model), "data": str(data), "bf16": False}
    if task == "translation":
        common["max_target_length"] = 12
    return lambda **changes: settings(**{**common, "eval_strategy": "steps", "eval_steps": 4, **changes})


def _kind(config: FinetuneConfig) -> Any:
    return AutoModelForCausalLM if config.task == "text-generation" else AutoModelForSeq2SeqLM


def _logits(model: Any) -> torch.Tensor:
    more = {"decoder_input_ids": IDS} if model.config.is_encoder_decoder else {}
    with torch.inference_mode():
        logits: torch.Tensor = model.eval()(input_ids=IDS, attention_mask=torch.ones_like(IDS), **more).logits
    return logits


@pytest.mark.parametrize("strategy", ["lora", "adalora", "ia3"])
def test_what_peft_trains_is_merged(generative_settings: Settings, tmp_path: Path, strategy: str) -> None:
    config = generative_settings(
        strategy=strategy, learning_rate=0.05, max_steps=8, **({} if strategy == "ia3" else {"lora_r": 2})
    )
    run = finetune(config, tmp_path / "run")
    kind = _kind(config)
    model, info = kind.from_pretrained(tmp_path / "run" / "checkpoint", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    base = kind.from_pretrained(config.model)
    before, after = base.state_dict(), model.state_dict()
    assert before.keys() == after.keys()
    changed = {name for name in after if not torch.equal(before[name], after[name])}
    assert changed
    assert not any("embed" in name or "shared" in name or "wte" in name or "norm" in name for name in changed)
    assert not torch.allclose(_logits(base), _logits(model), atol=1e-3)
    assert run.trained_parameters < sum(parameter.numel() for parameter in model.parameters()) / 3


def test_a_prefix_is_saved_without_the_model(generative_settings: Settings, tmp_path: Path) -> None:
    config = generative_settings(strategy="prefix", num_virtual_tokens=3, learning_rate=0.05, max_steps=8)
    run = finetune(config, tmp_path / "run")
    checkpoint = tmp_path / "run" / "checkpoint"
    assert not (checkpoint / "model.safetensors").exists()
    base = _kind(config).from_pretrained(config.model)
    plain = _logits(base)
    model = peft.PeftModel.from_pretrained(base, str(checkpoint))
    assert not torch.allclose(plain, _logits(model), atol=1e-3)
    layers = 4 if model.config.is_encoder_decoder else 2
    assert run.trained_parameters in (3 * 2 * 2 * 32, 3 * 2 * layers * 32)


def test_fgm_adds_a_gradient(generative_settings: Settings, tmp_path: Path) -> None:
    gradients = []
    for epsilon in (0.0, 5.0):
        prepared = prepare(generative_settings(adversarial_epsilon=epsilon, learning_rate=1e-12, dropout=0.0))
        trainer = take_adversarial_step(prepared, tmp_path)
        names = [name for name, _ in trainer.model.named_parameters() if name.endswith("weight")]
        gradients.append(trainer.model.get_parameter(names[-2]).grad.clone())
    assert not torch.allclose(gradients[1], gradients[0], rtol=0.1)
    assert not torch.allclose(gradients[1], 2 * gradients[0], rtol=1e-3)


@pytest.mark.parametrize("strategy", ["lora", "last_layers", "adapter"])
def test_recomputed_activations_still_give_gradients(
    generative_settings: Settings, tmp_path: Path, strategy: str
) -> None:
    """With the embeddings frozen, recomputing a layer must not lose the gradients inside of it."""
    prepared = prepare(
        generative_settings(
            strategy=strategy, gradient_checkpointing=True, eval_strategy="no", eval_steps=None, max_steps=3
        )
    )
    trainer = make_trainer(prepared, tmp_path, load_model(prepared))
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters() if p.requires_grad}
    trainer.train()
    after = dict(trainer.model.named_parameters())
    assert not [name for name in before if torch.equal(before[name], after[name])]
