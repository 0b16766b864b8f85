"""Causal models learn texts whole and chats by their answers, token for token; perplexity is that of the tokens."""

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from kit.data import write_rows
from kit.encoders import build_checkpoint
from kit.generative import build_causal
from kit.texts import NUMBERS
from kit.tokenizers import CHAT_TEMPLATE, MARKING_TEMPLATE, byte_tokenizer
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, BertModel, PreTrainedTokenizerFast

from tuneport.errors import CheckpointError, DataError, TuneportError
from tuneport.stages.finetune.chat import encode_chat, find_message_problem
from tuneport.stages.finetune.config import FinetuneConfig, load_config
from tuneport.stages.finetune.setup import load_model, prepare
from tuneport.stages.finetune.tasks.text_generation import PadRight
from tuneport.stages.finetune.train import finetune

Settings = Callable[..., FinetuneConfig]
TEXTS = [
    *[f"say {pair[0]} and {pair[1]}" + ", please" * i for i in range(3) for pair in NUMBERS.items()],
    "say zwei and two" + ", say it again" * 4,
    "one, two",
]
CHAT = [
    {"role": "system", "content": "be short"},
    {"role": "user", "content": "say zwei"},
    {"role": "assistant", "content": " two"},
    {"role": "user", "content": "and drei"},
    {"role": "assistant", "content": "three"},
]
QUICK = {
    "task": "text-generation", "max_length": 48, "max_steps": 2, "eval_strategy": "no", "save_strategy": "no",
    "report_to": [], "bf16": False, "per_device_train_batch_size": 8, "per_device_eval_batch_size": 3,
    "learning_rate": 5e-3,
}  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return byte_tokenizer([*TEXTS, *(message["content"] for message in CHAT)])


@pytest.fixture(scope="module")
def bases(tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bases")
    return {family: build_causal(folder / family, family, tokenizer) for family in ("gpt2", "llama")}


@pytest.fixture(scope="module")
def settings(bases: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Settings:
    folder = tmp_path_factory.mktemp("texts")
    for split in ("train", "validation", "test"):
        write_rows(folder / f"{split}.jsonl", [{"text": text} for text in (TEXTS if split == "train" else TEXTS[-5:])])

    def make(**changes: Any) -> FinetuneConfig:
        return load_config(flags={**QUICK, "model": str(bases["gpt2"]), "data": str(folder), **changes})

    return make


def _chats(folder: Path, rows: list[Any]) -> str:
    folder.mkdir(exist_ok=True)
    for split in ("train", "validation", "test"):
        write_rows(folder / f"{split}.jsonl", [{"messages": messages} for messages in rows])
    return str(folder)


@pytest.fixture
def template(tmp_path: Path) -> str:
    (tmp_path / "chat.jinja").write_text(CHAT_TEMPLATE)
    return str(tmp_path / "chat.jinja")


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_perplexity_is_that_of_all_tokens_and_training_lowers_it(
    family: str, bases: dict[str, Path], settings: Settings, tmp_path: Path
) -> None:
    config = settings(model=str(bases[family]), max_steps=40)
    first = finetune(settings(model=str(bases[family]), max_steps=1, learning_rate=1e-6), tmp_path / "first")
    run = finetune(config, tmp_path / "run")
    assert run.metrics["test"]["perplexity"] < first.metrics["test"]["perplexity"] / 4
    assert run.metrics["test"]["token_accuracy"] > first.metrics["test"]["token_accuracy"] + 0.2
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "run" / "checkpoint")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "checkpoint").eval()
    losses, right = [], []
    for text in TEXTS[-5:]:  # of different lengths, so that a mean of batches would differ
        ids = torch.tensor([[*tokenizer(text)["input_ids"], tokenizer.eos_token_id]])
        with torch.inference_mode():
            logits = model(input_ids=ids).logits[0, :-1]
        losses += torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none").tolist()
        right += (logits.argmax(-1) == ids[0, 1:]).tolist()
    assert run.metrics["test"]["perplexity"] == pytest.approx(math.exp(np.mean(losses)), rel=1e-4)
    assert run.metrics["test"]["token_accuracy"] == pytest.approx(np.mean(right))
    mistakes = json.loads((tmp_path / "run" / "evaluation.json").read_text())["test"]["mistakes"]
    assert len(mistakes) == 5
    assert mistakes[0]["loss"] == max(mistake["loss"] for mistake in mistakes)


def test_a_text_is_learnt_whole_with_its_end(settings: Settings, tokenizer: PreTrainedTokenizerFast) -> None:
    prepared = prepare(settings(max_length=10))
    long, short = prepared.features["test"][3], prepared.features["test"][4]
    ids = tokenizer(TEXTS[-2])["input_ids"]
    assert len(ids) > 10
    assert long["input_ids"] == ids[:10]
    assert long["labels"] == [-100, *ids[1:10]]
    ids = tokenizer(TEXTS[-1])["input_ids"]
    assert short["input_ids"] == [*ids, tokenizer.eos_token_id]
    assert short["labels"] == [-100, *ids[1:], tokenizer.eos_token_id]
    cut = sum(len(tokenizer(text)["input_ids"]) >= 10 for text in TEXTS[-5:])
    assert f"{cut} of 5 rows of test.jsonl are longer than the settings allow and are truncated" in prepared.warnings


def test_the_end_is_learnt_and_padding_is_not_though_they_are_one_token() -> None:
    rows = [
        {"input_ids": [5, 6, 0], "labels": [-100, 6, 0], "attention_mask": [1, 1, 1]},
        {"input_ids": [7], "labels": [-100], "attention_mask": [1]},
    ]
    batch = {name: values.tolist() for name, values in PadRight(0)(rows).items()}
    assert batch["input_ids"] == [[5, 6, 0], [7, 0, 0]]
    assert batch["attention_mask"] == [[1, 1, 1], [1, 0, 0]]
    assert batch["labels"] == [[-100, 6, 0], [-100, -100, -100]]


@pytest.mark.parametrize("chat_template", [CHAT_TEMPLATE, MARKING_TEMPLATE], ids=["prefixes", "marks"])
def test_only_answers_are_learnt(chat_template: str, tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.chat_template = chat_template
    ids, labels = encode_chat(CHAT, tokenizer)
    turns = [(f"<|{each['role']}|>", each["content"] + "</s>", each["role"] == "assistant") for each in CHAT]
    expected: list[int] = []
    at: list[int] = []
    for role, content, answer in turns:
        tokens = tokenizer(content)["input_ids"]
        at += range(len(expected) + 1, len(expected) + 1 + len(tokens)) if answer else []
        expected += [tokenizer.convert_tokens_to_ids(role), *tokens]
    assert ids == expected
    assert [i for i, label in enumerate(labels) if label != -100] == at
    assert all(labels[i] == ids[i] for i in at)
    if chat_template is MARKING_TEMPLATE:
        marked = tokenizer.apply_chat_template(CHAT, return_dict=True, return_assistant_tokens_mask=True)
        assert marked["input_ids"] == ids
        assert [i for i, flag in enumerate(marked["assistant_masks"]) if flag] == at


def test_a_token_that_begins_before_its_answer_counts(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m.role == 'user' %}{{ m.content }} {% else %}{{ m.content }}{% endif %}"
        "{% endfor %}"
    )
    ids, labels = encode_chat([{"role": "user", "content": "say"}, {"role": "assistant", "content": "two"}], tokenizer)
    assert tokenizer.decode([label for label in labels if label != -100]).strip() == "two"
    assert tokenizer.decode(ids) == "say two"


def test_a_template_that_rewrites_earlier_turns_is_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.chat_template = (
        "{% for m in messages %}<|{{ m.role }}|>{% if m.role == 'assistant' and loop.last %}(thought){% endif %}"
        "{{ m.content }}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    with pytest.raises(DataError, match="renders earlier turns differently"):
        encode_chat(CHAT, tokenizer)
    assert encode_chat(CHAT[:3], tokenizer)


def test_chats_train_through_a_template_that_stays_with_the_checkpoint(
    bases: dict[str, Path], settings: Settings, template: str, tmp_path: Path
) -> None:
    late = [{"role": "user", "content": "say it again " * 20}, {"role": "assistant", "content": "two"}]
    data = _chats(tmp_path / "chats", [CHAT, late, CHAT[:3], *[CHAT[1:3]] * 5])
    config = settings(model=str(bases["llama"]), data=data, chat_template=template, max_steps=20)
    run = finetune(config, tmp_path / "run")
    assert "1 of 8 rows of train.jsonl were left out: their targets lie beyond max_length" in run.warnings
    assert run.metrics["test"]["perplexity"] < 60  # of about 320 tokens
    checkpoint = tmp_path / "run" / "checkpoint"
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    assert tokenizer.chat_template == CHAT_TEMPLATE
    model = AutoModelForCausalLM.from_pretrained(checkpoint)
    ids = tokenizer.apply_chat_template(CHAT[:2], add_generation_prompt=True, return_tensors="pt")
    assert model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=3).shape[1] > ids.shape[1]
    shown = json.loads((tmp_path / "run" / "evaluation.json").read_text())["test"]["mistakes"]
    assert {mistake["row"] for mistake in shown} == {1, 3, 4, 5, 6, 7, 8}
    assert next(mistake for mistake in shown if mistake["row"] == 1)["expected"] == " two ⟂ three"


def test_a_tokenizer_without_a_template_is_refused_with_the_remedy(settings: Settings, tmp_path: Path) -> None:
    data = _chats(tmp_path / "chats", [CHAT] * 3)
    with pytest.raises(CheckpointError, match=r"no chat template.*chat_template=FILE"):
        finetune(settings(data=data), tmp_path / "run")
    with pytest.raises(TuneportError, match="cannot read the chat template"):
        finetune(settings(data=data, chat_template=str(tmp_path / "none")), tmp_path / "run")


def test_what_a_template_refuses_is_named(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "strict.jinja").write_text(
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system here') }}{% endif %}" + CHAT_TEMPLATE
    )
    data = _chats(tmp_path / "chats", [CHAT[1:3], CHAT, CHAT])
    with pytest.raises(DataError) as caught:
        finetune(settings(data=data, chat_template=str(tmp_path / "strict.jinja")), tmp_path / "run")
    assert "train.jsonl row 2" in str(caught.value)
    assert "train.jsonl row 3" in str(caught.value)
    assert "no system here" in str(caught.value)
    rows = [{"messages": CHAT if number in (7, 30) else CHAT[1:3]} for number in range(1, 41)]
    single = write_rows(tmp_path / "all.jsonl", rows)
    with pytest.raises(DataError) as caught:
        finetune(settings(data=str(single), chat_template=str(tmp_path / "strict.jinja")), tmp_path / "run")
    assert {"7", "30"} >= set(re.findall(r" row (\d+):", str(caught.value))) != set()


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ("hello", "messages is 'hello', and a list"),
        ([], r"messages is \[\], and a list"),
        (["hello"], "message 1 is 'hello', and an object"),
        ([{"role": "bot", "content": "a"}], "message 1 has the role 'bot', not one of system, user, assistant, tool"),
        ([{"role": "user", "content": " "}], "message 1 has the content an empty string"),
        ([{"role": "user", "content": None}], "message 1 has the content None"),
        ([{"role": "user", "content": "a"}], "no message has the role assistant"),
        ([{"role": "assistant", "content": "a"}], "an answer needs a question"),
    ],
)
def test_malformed_messages_are_named(messages: Any, message: str) -> None:
    problem = find_message_problem(messages)
    assert problem is not None
    assert re.search(message, problem)


def test_every_bad_row_is_named_at_once(settings: Settings, tmp_path: Path) -> None:
    rows = [CHAT, [{"role": "bot", "content": "a"}], [{"role": "user", "content": "a"}]]
    with pytest.raises(DataError) as caught:
        finetune(settings(data=_chats(tmp_path / "chats", rows)), tmp_path / "run")
    for part in ("train.jsonl row 2: message 1 has the role 'bot'", "train.jsonl row 3: no message", "row 2"):
        assert part in str(caught.value)
    folder = tmp_path / "texts"
    folder.mkdir()
    write_rows(folder / "train.jsonl", [{"text": "a"}, {"text": ""}, {"text": None}])
    write_rows(folder / "validation.jsonl", [{"text": "a"}, {"text": " "}])
    with pytest.raises(DataError) as caught:
        finetune(settings(data=str(folder)), tmp_path / "run")
    for part in ("train.jsonl row 2: text is an empty", "train.jsonl row 3: text is None", "validation.jsonl row 2"):
        assert part in str(caught.value)


def test_a_model_that_is_not_causal_is_refused(settings: Settings, tmp_path: Path) -> None:
    build_checkpoint(tmp_path / "bert", architecture=BertModel)
    with pytest.raises(CheckpointError, match="sees the tokens that it should predict"):
        finetune(settings(model=str(tmp_path / "bert")), tmp_path / "run")


def test_generation_settings_that_contradict_each_other_do_not_stop_the_run(
    settings: Settings, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    tokenizer.chat_template = None
    base = build_causal(tmp_path / "base", "llama", tokenizer)
    conflicting = {"do_sample": False, "temperature": 0.6, "top_p": 0.9, "eos_token_id": 0}
    (base / "generation_config.json").write_text(json.dumps(conflicting))
    assert finetune(settings(model=str(base)), tmp_path / "run").metrics["test"]["perplexity"] > 1


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_lora_changes_its_layers_only_and_is_merged(
    family: str, bases: dict[str, Path], settings: Settings, tmp_path: Path
) -> None:
    finetune(settings(model=str(bases[family]), strategy="lora", lora_r=4), tmp_path / "run")
    before = load_file(bases[family] / "model.safetensors")
    after = load_file(tmp_path / "run" / "checkpoint" / "model.safetensors")
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    layers = ("attn.c_attn.weight",) if family == "gpt2" else ("q_proj.weight", "v_proj.weight")
    assert changed
    assert all(name.endswith(layers) for name in changed)


def test_a_tied_head_is_not_trained_alone_and_an_untied_one_is(
    bases: dict[str, Path], settings: Settings, tmp_path: Path
) -> None:
    with pytest.raises(TuneportError, match="is its embeddings"):
        finetune(settings(strategy="head"), tmp_path / "run")
    model = load_model(prepare(settings(model=str(bases["llama"]), strategy="head")))
    learning = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert learning == {"lm_head.weight", "model.norm.weight"}


def test_a_column_that_is_not_there_is_named(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"train\.jsonl has no column 'review', only 'text'"):
        finetune(settings(columns={"text": "review"}), tmp_path / "run")
