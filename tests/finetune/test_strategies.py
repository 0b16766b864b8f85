"""What is trained learns, and nothing else does; rates are those that the settings ask for."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from kit.runs import take_adversarial_step
from peft import PeftModel
from safetensors.torch import load_file
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    BartConfig,
    DebertaV2Config,
    DistilBertConfig,
    ElectraConfig,
    GPT2Config,
    ModernBertConfig,
    PretrainedConfig,
    RobertaConfig,
    T5Config,
    TrainerCallback,
    XLNetConfig,
)

from tuneport.errors import TuneportError
from tuneport.stages.finetune.config import FinetuneConfig
from tuneport.stages.finetune.setup import evaluate, load_model, load_trained, make_trainer, prepare
from tuneport.stages.finetune.strategies.layers import layer_groups
from tuneport.stages.finetune.strategies.strategies import count_unfrozen
from tuneport.stages.finetune.train import finetune

Settings = Callable[..., FinetuneConfig]
SMALL = {"vocab_size": 60, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}
FAMILIES: dict[str, PretrainedConfig] = {
    "roberta": RobertaConfig(**SMALL),
    "deberta": DebertaV2Config(**SMALL),
    "modernbert": ModernBertConfig(
        **SMALL, pad_token_id=0, bos_token_id=1, eos_token_id=2, cls_token_id=1, sep_token_id=2
    ),
    "electra": ElectraConfig(**SMALL, embedding_size=16),
    "distilbert": DistilBertConfig(vocab_size=60, dim=16, n_layers=3, n_heads=2, hidden_dim=32),
    "xlnet": XLNetConfig(vocab_size=60, d_model=16, n_layer=3, n_head=2, d_inner=32),
    "gpt2": GPT2Config(vocab_size=60, n_embd=16, n_layer=3, n_head=2),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_parameter_of_a_family_is_in_one_group(family: str) -> None:
    model = AutoModelForSequenceClassification.from_config(FAMILIES[family])
    groups = layer_groups(model)
    assert len(groups) == 5
    assert sorted(name for group in groups for name in group) == sorted(name for name, _ in model.named_parameters())
    assert any("embed" in name or "wte" in name for name in groups[0])
    for layer, names in enumerate(groups[1:-1]):
        assert names
        assert all(f".{layer}." in name for name in names)
    assert not any("embed" in name for name in groups[-1])


@pytest.mark.parametrize(
    "config",
    [
        T5Config(vocab_size=60, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_decoder_layers=3, num_heads=2),
        BartConfig(
            vocab_size=60, d_model=16, encoder_layers=2, decoder_layers=3, encoder_attention_heads=2,
            decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32,
        ),
    ],
    ids=["t5", "bart"],
)  # fmt: skip
def test_a_decoder_is_above_its_encoder(config: PretrainedConfig) -> None:
    groups = layer_groups(AutoModelForSeq2SeqLM.from_config(config))
    assert len(groups) == 1 + 2 + 3 + 1
    assert all(groups[:-1])  # the last one is the head, which BART ties to its embeddings
    assert all("encoder" in name for name in groups[1] + groups[2])
    assert all("decoder" in name for group in groups[3:6] for name in group)


def _changed(settings: FinetuneConfig, out: Path) -> set[str]:
    """Fine-tune and name the weights that are not the base model's, bit for bit."""
    before = AutoModel.from_pretrained(settings.model).state_dict()
    finetune(settings, out)
    after = load_file(out / "checkpoint" / "model.safetensors")
    assert after.keys() >= {f"bert.{name}" for name in before if "position_ids" not in name}
    return {
        name for name in after if not torch.equal(after[name], before.get(name.removeprefix("bert."), torch.empty(0)))
    }


def test_head_only_leaves_the_layers_bit_identical(settings: Settings, tmp_path: Path) -> None:
    changed = _changed(settings(strategy="head"), tmp_path / "run")
    assert {"classifier.weight", "classifier.bias", "bert.pooler.dense.weight", "bert.pooler.dense.bias"} == changed


def test_last_layers_leaves_those_below_bit_identical(settings: Settings, tmp_path: Path) -> None:
    changed = _changed(settings(strategy="last_layers", num_last_layers=1), tmp_path / "run")
    assert any(name.startswith("bert.encoder.layer.1.") for name in changed)
    assert not any(name.startswith(("bert.encoder.layer.0.", "bert.embeddings.")) for name in changed)


def test_full_changes_every_layer(settings: Settings, tmp_path: Path) -> None:
    changed = _changed(settings(), tmp_path / "run")
    assert {"bert.embeddings.word_embeddings.weight", "bert.encoder.layer.0.output.dense.weight"} <= changed


class _GradientRecorder(TrainerCallback):
    """Records which parameters have gradients in each epoch."""

    def __init__(self) -> None:
        self.seen: dict[int, set[str]] = {}

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        names = {name for name, parameter in kwargs["model"].named_parameters() if parameter.grad is not None}
        self.seen.setdefault(int(state.epoch), set()).update(names)


def test_gradual_unfreezing_adds_a_layer_each_epoch(settings: Settings, tmp_path: Path) -> None:
    prepared = prepare(settings(strategy="gradual", max_steps=-1, num_train_epochs=4))
    trainer = make_trainer(prepared, tmp_path, load_model(prepared))
    recorder = _GradientRecorder()
    trainer.add_callback(recorder)
    trainer.train()
    groups = layer_groups(trainer.model)
    for epoch in range(4):
        learning = {name for group in groups[len(groups) - 1 - epoch :] for name in group}
        assert recorder.seen[epoch] == learning


@pytest.mark.parametrize(
    ("groups", "first", "epochs", "counts"),
    [
        (8, 1, 3, [1, 5, 8]),  # six layers, with embeddings and head
        (8, 1, 2, [1, 8]),
        (8, 1, 8, [1, 2, 3, 4, 5, 6, 7, 8]),
        (4, 1, 6, [1, 2, 3, 4, 4, 4]),
        (14, 1, 10, [1, 3, 4, 6, 7, 9, 10, 12, 13, 14]),
        (4, 2, 2, [2, 4]),
    ],
)
def test_gradual_unfreezing_reaches_the_embeddings(groups: int, first: int, epochs: int, counts: list[int]) -> None:
    assert [count_unfrozen(groups, first, epoch, epochs) for epoch in range(epochs)] == counts


def test_gradual_unfreezing_needs_two_epochs(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(TuneportError, match="this run has one epoch; give two epochs or more"):
        finetune(settings(strategy="gradual", max_steps=-1, num_train_epochs=1), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_each_layer_learns_at_a_fraction_of_the_rate_above(settings: Settings, tmp_path: Path) -> None:
    prepared = prepare(settings(layer_lr_decay=0.5, learning_rate=8e-4))
    trainer = make_trainer(prepared, tmp_path, load_model(prepared))
    names = {id(parameter): name for name, parameter in trainer.model.named_parameters()}
    rates = {names[id(p)]: group["lr"] for group in trainer.create_optimizer().param_groups for p in group["params"]}
    assert rates["classifier.weight"] == pytest.approx(8e-4)
    assert rates["bert.encoder.layer.1.output.dense.weight"] == pytest.approx(4e-4)
    assert rates["bert.encoder.layer.0.output.dense.weight"] == pytest.approx(2e-4)
    assert rates["bert.embeddings.word_embeddings.weight"] == pytest.approx(1e-4)


def _rates(config: FinetuneConfig, out: Path) -> dict[str, float]:
    prepared = prepare(config)
    trainer = make_trainer(prepared, out, load_model(prepared))
    names = {id(parameter): name for name, parameter in trainer.model.named_parameters()}
    return {names[id(p)]: group["lr"] for group in trainer.create_optimizer().param_groups for p in group["params"]}


def test_a_prefix_learns_at_the_whole_rate(settings: Settings, tmp_path: Path) -> None:
    rates = _rates(settings(strategy="prefix", layer_lr_decay=0.5, learning_rate=8e-4), tmp_path)
    assert {name.partition(".")[0] for name in rates} == {"base_model", "prompt_encoder"}
    assert set(rates.values()) == {8e-4}


def test_adapters_learn_at_the_rates_of_their_layers(settings: Settings, tmp_path: Path) -> None:
    rates = _rates(settings(strategy="adapter", layer_lr_decay=0.5, learning_rate=8e-4), tmp_path)
    down = "bert.encoder.layer.{}.output.adapters.adapter.adapter_down.0.weight"
    assert rates["classifier.weight"] == pytest.approx(8e-4)
    assert rates[down.format(1)] == pytest.approx(4e-4)
    assert rates[down.format(0)] == pytest.approx(2e-4)


def test_biases_and_norms_do_not_decay(settings: Settings, tmp_path: Path) -> None:
    prepared = prepare(settings(weight_decay=0.1))
    trainer = make_trainer(prepared, tmp_path, load_model(prepared))
    names = {id(parameter): name for name, parameter in trainer.model.named_parameters()}
    decay = {names[id(p)]: g["weight_decay"] for g in trainer.create_optimizer().param_groups for p in g["params"]}
    assert {value for name, value in decay.items() if "bias" in name or "LayerNorm" in name} == {0.0}
    assert decay["classifier.weight"] == 0.1


@pytest.mark.parametrize(
    ("optim", "kind"),
    [("adamw_torch", "AdamW"), ("adam", "Adam"), ("adagrad", "Adagrad"), ("sgd", "SGD"), ("adafactor", "Adafactor")],
)
def test_the_optimizer_is_the_named_one(settings: Settings, tmp_path: Path, optim: str, kind: str) -> None:
    prepared = prepare(settings(optim=optim, **({"momentum": 0.7} if optim == "sgd" else {})))
    trainer = make_trainer(prepared, tmp_path, load_model(prepared))
    optimizer = trainer.create_optimizer()
    assert type(optimizer).__name__ == kind
    assert optimizer.defaults.get("momentum", 0.7) == 0.7
    trainer.train()
    assert trainer.state.global_step == 4


@pytest.mark.parametrize("strategy", ["lora", "adalora", "ia3"])
def test_adapters_are_merged_into_a_plain_checkpoint(settings: Settings, tmp_path: Path, strategy: str) -> None:
    out = tmp_path / "run"
    run = finetune(settings(strategy=strategy, learning_rate=0.05), out)
    model, info = AutoModelForSequenceClassification.from_pretrained(out / "checkpoint", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    before = AutoModel.from_pretrained(settings().model).state_dict()
    after = model.bert.state_dict()
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    assert changed
    assert not any("embeddings" in name or "LayerNorm" in name for name in changed)
    assert run.trained_parameters < sum(p.numel() for p in model.parameters()) / 3


def test_a_prefix_is_loaded_again_with_its_head(settings: Settings, tmp_path: Path) -> None:
    config = settings(strategy="prefix", num_virtual_tokens=4, learning_rate=0.05, max_steps=8, bf16=False)
    run = finetune(config, tmp_path / "run")
    prepared = prepare(config)
    model = load_trained(prepared, tmp_path / "run" / "checkpoint")
    before, after = load_model(prepare(config)).state_dict(), model.state_dict()
    changed = {
        name.removeprefix("base_model.") for name in after if name in before and not before[name].equal(after[name])
    }
    assert changed
    assert not any(".encoder." in name or ".embeddings." in name for name in changed)
    scored = evaluate(make_trainer(prepared, tmp_path, model), prepared, "test").metrics
    assert scored == pytest.approx(run.metrics["test"])
    # As docs/finetuning.md says, without tuneport.
    checkpoint = tmp_path / "run" / "checkpoint"
    alone = PeftModel.from_pretrained(
        AutoModelForSequenceClassification.from_pretrained(config.model, config=AutoConfig.from_pretrained(checkpoint)),
        checkpoint,
    )
    assert alone.config.id2label == {0: "film", 1: "vote"}
    ids = torch.tensor([[2, 10, 11, 3]])
    assert torch.equal(alone.eval()(input_ids=ids).logits, model.eval()(input_ids=ids).logits)


def test_freezing_what_fgm_moves_is_refused(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(TuneportError, match="embeddings"):
        finetune(settings(strategy="head", adversarial_epsilon=0.5), tmp_path / "run")


def test_adversarial_steps_leave_the_embeddings_where_they_were(settings: Settings, tmp_path: Path) -> None:
    """The second gradient is added, and the move undone: with a rate of nearly 0 nothing has moved."""
    gradients = {}
    for epsilon in (0.0, 5.0):
        prepared = prepare(settings(adversarial_epsilon=epsilon, learning_rate=1e-12, dropout=0.0))
        trainer = take_adversarial_step(prepared, tmp_path)
        gradients[epsilon] = trainer.model.classifier.weight.grad.clone()
    assert not torch.allclose(gradients[5.0], gradients[0.0], rtol=0.1)
    assert not torch.allclose(gradients[5.0], 2 * gradients[0.0], rtol=1e-3)


def test_dropout_reaches_the_model(settings: Settings) -> None:
    model = load_model(prepare(settings(dropout=0.37)))
    assert {module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)} == {0.37}


@pytest.mark.parametrize("pooling", ["cls", "mean", "attention"])
def test_a_pooled_head_loads_in_transformers_alone(settings: Settings, tmp_path: Path, pooling: str) -> None:
    out = tmp_path / "run"
    finetune(settings(pooling=pooling), out)
    config = AutoConfig.from_pretrained(out / "checkpoint", trust_remote_code=True)
    assert config.pooling == pooling
    model, info = AutoModelForSequenceClassification.from_pretrained(
        out / "checkpoint", trust_remote_code=True, output_loading_info=True
    )
    assert not info["missing_keys"]
    ids = torch.tensor([[2, 10, 11, 12, 3, 0, 0]])
    alone = model.eval()(input_ids=ids[:, :5], attention_mask=torch.ones(1, 5, dtype=torch.int64)).logits
    padded = model(input_ids=ids, attention_mask=(ids != 0).long()).logits
    assert torch.allclose(alone, padded, atol=1e-5)
