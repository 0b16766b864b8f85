"""Encoder–decoders learn to translate, are scored on what they generate, and stay whole for transformers alone."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sacrebleu
import torch
from kit.data import write_pairs, write_rows
from kit.encoders import build_checkpoint
from kit.generative import build_mbart, build_seq2seq
from kit.texts import pairs
from kit.tokenizers import END, PAD
from safetensors.torch import load_file
from transformers import (
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    BertModel,
    GenerationConfig,
    MBart50TokenizerFast,
    MBartTokenizerFast,
)

from tuneport.data.reader import read_data
from tuneport.errors import CheckpointError, DataError, TuneportError
from tuneport.stages.finetune.config import FinetuneConfig, load_config
from tuneport.stages.finetune.setup import load_model, prepare
from tuneport.stages.finetune.strategies.strategies import head_is_tied, set_trainable
from tuneport.stages.finetune.tasks.translation import Task
from tuneport.stages.finetune.train import finetune
from tuneport.tasks import task_spec

Settings = Callable[..., FinetuneConfig]
ROWS = pairs(16)
QUICK = {
    "task": "translation", "max_length": 32, "max_target_length": 16, "max_steps": 2, "eval_strategy": "no",
    "save_strategy": "no", "report_to": [], "bf16": False, "per_device_train_batch_size": 8, "learning_rate": 5e-3,
}  # fmt: skip


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bases")
    return {family: build_seq2seq(folder / family, family) for family in ("t5", "bart", "marian")}


@pytest.fixture(scope="module")
def settings(bases: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Settings:
    data = write_pairs(tmp_path_factory.mktemp("pairs"), ROWS, ROWS[:8])

    def make(**changes: Any) -> FinetuneConfig:
        return load_config(flags={**QUICK, "model": str(bases["t5"]), "data": str(data), **changes})

    return make


def _translate(checkpoint: Path, texts: list[str]) -> list[str]:
    """What transformers alone makes of a checkpoint, with the checkpoint's own generation settings."""
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    model = AutoModelForSeq2SeqLM.from_pretrained(checkpoint)
    feeds = tokenizer(texts, padding=True, return_tensors="pt")
    ids = model.generate(input_ids=feeds["input_ids"], attention_mask=feeds["attention_mask"])
    return tokenizer.batch_decode(ids, skip_special_tokens=True)


def _changed(base: Path, checkpoint: Path) -> set[str]:
    """Name the weights that are not the base model's, bit for bit."""
    before, after = load_file(base / "model.safetensors"), load_file(checkpoint / "model.safetensors")
    assert before.keys() == after.keys()
    return {name for name in before if not torch.equal(before[name], after[name])}


def test_a_model_that_memorizes_the_rows_has_a_high_bleu_with_transformers_alone(
    settings: Settings, tmp_path: Path
) -> None:
    first = finetune(settings(max_steps=1, learning_rate=1e-6), tmp_path / "first")
    run = finetune(settings(max_steps=-1, num_train_epochs=70, lr_scheduler_type="constant"), tmp_path / "run")
    assert first.metrics["test"]["bleu"] < 0.05
    assert run.metrics["test"]["bleu"] > 0.6
    assert run.metrics["test"]["chrf"] > first.metrics["test"]["chrf"]
    expected = [row["target"] for row in ROWS[:8]]
    written = _translate(tmp_path / "run" / "checkpoint", [row["source"] for row in ROWS[:8]])
    assert sacrebleu.corpus_bleu(written, [expected]).score / 100 == pytest.approx(run.metrics["test"]["bleu"])
    assert run.labels == ()


@pytest.mark.parametrize("family", ["bart", "marian"])
def test_other_families_train_and_load(family: str, bases: dict[str, Path], settings: Settings, tmp_path: Path) -> None:
    run = finetune(settings(model=str(bases[family]), num_beams=2, label_smoothing_factor=0.1), tmp_path / "run")
    assert set(run.metrics["test"]) == {"bleu", "chrf", "loss"}
    assert len(_translate(tmp_path / "run" / "checkpoint", ["eins zwei"])) == 1
    assert GenerationConfig.from_pretrained(tmp_path / "run" / "checkpoint").num_beams == 2


def test_the_worst_sentences_come_first(settings: Settings) -> None:
    config = settings()
    data = read_data(config.data, columns={}, required=task_spec("translation").columns, optional=(), seed=0)
    task = Task(data, config)
    tokenizer = task.load_processor(config.model)
    rows = data.splits["test"].select(range(3))
    right, wrong = rows[1]["target"], "say it please"
    texts = [right.split()[0], right, wrong]
    ids = tokenizer(texts, padding=True, return_tensors="np")["input_ids"].astype(int)
    ids[0, -1] = -100  # as Trainer pads
    scored = task.evaluate(ids, None, rows, None)  # type: ignore[arg-type]
    assert [mistake.row for mistake in scored.mistakes] == [3, 1]
    assert scored.mistakes[0].predicted == wrong
    assert scored.mistakes[0].loss == pytest.approx(1 - sacrebleu.sentence_chrf(wrong, [rows[2]["target"]]).score / 100)


def test_rows_become_prefixed_sources_and_targets_that_end(settings: Settings, tmp_path: Path) -> None:
    base = build_seq2seq(tmp_path / "base", "t5", ends=False)  # a tokenizer that adds no end token
    config = settings(model=str(base), source_prefix="translate German to English : ", max_length=9)
    prepared = prepare(config)
    tokenizer, row = prepared.processor, prepared.features["validation"][0]
    words = f"translate German to English : {ROWS[0]['source']}".split()
    assert row["input_ids"] == tokenizer.convert_tokens_to_ids(words)[:9]
    assert row["labels"] == [*tokenizer.convert_tokens_to_ids(ROWS[0]["target"].split()), END]
    cut = sum(len(each["source"].split()) > 4 for each in ROWS[:8])
    assert 0 < cut < 8
    assert (
        f"{cut} of 8 rows of validation.jsonl are longer than the settings allow and are truncated" in prepared.warnings
    )
    inputs = {name: row[name] for name in ("input_ids", "attention_mask", "labels")}
    batch = prepared.task.collator(tokenizer, load_model(prepared))([inputs, {**inputs, "labels": [7, END]}])
    assert batch["labels"][1].tolist() == [7, END, *[-100] * (len(row["labels"]) - 2)]
    assert batch["decoder_input_ids"][1, :2].tolist() == [PAD, 7]


def test_every_bad_row_is_named_at_once(settings: Settings, tmp_path: Path) -> None:
    rows = [{"source": "eins", "target": "one"}, {"source": " ", "target": "two"}, {"source": "drei", "target": None}]
    data = write_pairs(tmp_path, rows, [{"source": "vier", "target": ""}])
    with pytest.raises(DataError) as caught:
        finetune(settings(data=str(data)), tmp_path / "run")
    message = str(caught.value)
    for part in (
        "train.jsonl row 2: source is an empty",
        "train.jsonl row 3: target is None",
        "validation.jsonl row 1",
    ):
        assert part in message


def test_a_text_column_of_numbers_is_refused(settings: Settings, tmp_path: Path) -> None:
    write_rows(tmp_path / "train.jsonl", [{"source": 1, "target": "one"}])
    write_rows(tmp_path / "validation.jsonl", [{"source": "eins", "target": "one"}])
    with pytest.raises(DataError, match=r"train\.jsonl row 1: source is 1"):
        finetune(settings(data=str(tmp_path)), tmp_path / "run")


def test_an_encoder_cannot_translate(settings: Settings, tmp_path: Path) -> None:
    build_checkpoint(tmp_path / "bert", architecture=BertModel)
    with pytest.raises(CheckpointError) as caught:
        finetune(settings(model=str(tmp_path / "bert")), tmp_path / "run")
    assert "\n" not in str(caught.value)


def test_a_model_without_a_token_to_begin_with_gets_one(settings: Settings, tmp_path: Path) -> None:
    base = build_seq2seq(tmp_path / "base", "t5", decoder_start_token_id=None)
    conflicting = GenerationConfig(temperature=0.3, num_beams=4, early_stopping=True, length_penalty=2.0, max_length=20)
    conflicting.min_length = 56
    (base / "generation_config.json").write_text(json.dumps(conflicting.to_dict()))
    finetune(settings(model=str(base)), tmp_path / "run")
    saved = GenerationConfig.from_pretrained(tmp_path / "run" / "checkpoint")
    assert (saved.decoder_start_token_id, saved.max_length, saved.min_length) == (PAD, 16, 0)


def test_a_token_to_begin_with_beyond_the_vocabulary_is_refused(settings: Settings, tmp_path: Path) -> None:
    base = build_seq2seq(tmp_path / "base", "marian", decoder_start_token_id=58100)
    with pytest.raises(CheckpointError, match="decoder_start_token_id = 58100 and a vocabulary of"):
        finetune(settings(model=str(base)), tmp_path / "run")


def test_a_tokenizer_larger_than_its_model_is_refused(settings: Settings, tmp_path: Path) -> None:
    base = build_seq2seq(tmp_path / "base", "t5", vocab_size=8)
    with pytest.raises(CheckpointError, match="has 8 embeddings and a tokenizer of"):
        finetune(settings(model=str(base)), tmp_path / "run")


def test_lengths_beyond_the_models_positions_are_refused(settings: Settings, tmp_path: Path) -> None:
    base = build_seq2seq(tmp_path / "base", "marian", max_position_embeddings=20)
    with pytest.raises(CheckpointError, match=r"max_length is 32 and .* has 20 positions"):
        finetune(settings(model=str(base)), tmp_path / "run")


def test_languages_need_a_tokenizer_that_marks_them(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(TuneportError, match="marks no languages"):
        finetune(settings(target_language="en_XX"), tmp_path / "run")


@pytest.mark.parametrize("kind", [MBartTokenizerFast, MBart50TokenizerFast])
def test_mbart_generates_the_target_language(kind: type, settings: Settings, tmp_path: Path) -> None:
    base = build_mbart(tmp_path / "base", kind)
    config = settings(model=str(base), source_language="de_DE", target_language="en_XX")
    prepared = prepare(config)
    code = prepared.processor.convert_tokens_to_ids("en_XX")
    generation = load_model(prepared).generation_config
    source, target = (prepared.features["train"][0][name] for name in ("input_ids", "labels"))
    if kind is MBartTokenizerFast:  # the code ends a text, and begins the decoder
        assert (generation.decoder_start_token_id, generation.forced_bos_token_id) == (code, None)
        assert (prepared.processor.convert_ids_to_tokens(source[-1]), target[-1]) == ("de_DE", code)
    else:  # the code begins a text, and is forced to come first
        assert (generation.decoder_start_token_id, generation.forced_bos_token_id) == (2, code)
        assert (prepared.processor.convert_ids_to_tokens(source[0]), target[0]) == ("de_DE", code)
    with pytest.raises(TuneportError, match="'tlh' is not in the tokenizer"):
        prepare(settings(model=str(base), target_language="tlh"))


@pytest.mark.parametrize("family", ["t5", "bart", "marian"])
def test_lora_changes_its_layers_only_and_is_merged(
    family: str, bases: dict[str, Path], settings: Settings, tmp_path: Path
) -> None:
    finetune(settings(model=str(bases[family]), strategy="lora", lora_r=4), tmp_path / "run")
    before, after = (
        load_file(bases[family] / "model.safetensors"),
        load_file(tmp_path / "run/checkpoint/model.safetensors"),
    )
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all(name.endswith(".weight") and "norm" not in name and "embed" not in name for name in changed)
    assert "shared.weight" not in {name.removeprefix("model.") for name in changed}
    assert any("decoder" in name for name in changed)
    assert any("encoder" in name.removeprefix("model.")[:7] for name in changed)
    assert len(_translate(tmp_path / "run" / "checkpoint", ["eins"])) == 1


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_a_tied_head_is_not_trained_alone(
    family: str, bases: dict[str, Path], settings: Settings, tmp_path: Path
) -> None:
    with pytest.raises(TuneportError, match="is its embeddings"):
        finetune(settings(model=str(bases[family]), strategy="head"), tmp_path / "run")


def test_the_last_layers_learn_while_a_tied_head_stays(
    bases: dict[str, Path], settings: Settings, tmp_path: Path
) -> None:
    finetune(settings(strategy="last_layers", num_last_layers=1), tmp_path / "run")
    before, after = (
        load_file(bases["t5"] / "model.safetensors"),
        load_file(tmp_path / "run/checkpoint/model.safetensors"),
    )
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert any(name.startswith("decoder.block.1.") for name in changed)
    assert all(name.startswith("decoder.block.1.") or "final_layer_norm" in name for name in changed)


def test_gradual_unfreezing_of_a_tied_model_begins_with_its_top_layer(
    bases: dict[str, Path], settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[set[str]] = []

    def record(model: torch.nn.Module, groups: list[list[str]], count: int) -> None:
        set_trainable(model, groups, count)
        seen.append({name for name, parameter in model.named_parameters() if parameter.requires_grad})

    monkeypatch.setattr("tuneport.stages.finetune.strategies.strategies.set_trainable", record)
    config = settings(model=str(bases["bart"]), strategy="gradual", max_steps=-1, num_train_epochs=2)
    assert head_is_tied(load_model(prepare(config)))
    finetune(config, tmp_path / "run")
    assert all(".decoder.layers.1." in name for name in seen[0])
    assert seen[0]
    assert any(".decoder.layers.0." in name for name in seen[1])
