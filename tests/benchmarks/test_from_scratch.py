"""The models that are trained from nothing: their tokenizers, and how long they may train."""

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from tuneport.stages.benchmarks.from_scratch import llama, marian, recipe
from tuneport.stages.benchmarks.from_scratch.__main__ import RECIPES

PAIRS = [("ein Hund läuft", "a dog runs"), ("zwei Katzen schlafen", "two cats sleep"), ("das Haus ist alt", "old")]


def texts() -> Iterator[str]:
    return itertools.islice(itertools.cycle(itertools.chain(*PAIRS)), 24)


@pytest.mark.parametrize("task", sorted(RECIPES))
def test_the_steps_within_a_time_are_those_of_a_trial(
    task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recipe, "TRIAL_STEPS", 1)
    monkeypatch.setattr(llama, "MODEL", {**llama.MODEL, "hidden_size": 64, "intermediate_size": 64})
    tiny = replace(RECIPES[task], batch_rows=2)
    tiny.save_base(tmp_path / "base", texts())
    few, many = (recipe.steps_within(each, tiny, tmp_path / "base", texts()) for each in (1e-9, 3600))
    assert few == 1
    assert many > 100


def test_the_tokenizer_of_marian_ends_texts_and_has_its_padding_last() -> None:
    tokenizer = marian.train_tokenizer(texts())
    ids = tokenizer("a dog").input_ids
    assert tokenizer.decode(ids, skip_special_tokens=True).strip() == "a dog"
    assert ids[-1] == marian.END_ID
    assert tokenizer.pad_token_id == len(tokenizer) - 1  # CTranslate2 cuts the last one off


def test_the_llama_generates_as_many_tokens_as_it_says_and_knows_its_end(tmp_path: Path) -> None:
    llama.LLAMA.save_base(tmp_path, texts())
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    ids = tokenizer("läuft, 🙂").input_ids
    assert tokenizer.decode(ids) == "läuft, 🙂"
    assert tokenizer.eos_token_id not in ids
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert model.generation_config.max_new_tokens == llama.NEW_TOKENS
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert model.config.pad_token_id == tokenizer.pad_token_id
