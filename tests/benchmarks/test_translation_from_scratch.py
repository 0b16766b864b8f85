"""The translation model that is trained from nothing: its tokenizer, and how long it may train."""

from pathlib import Path

import pytest
from transformers import AutoTokenizer

from tuneport.stages.benchmarks import translation_from_scratch as scratch

PAIRS = [("ein Hund läuft", "a dog runs"), ("zwei Katzen schlafen", "two cats sleep"), ("das Haus ist alt", "old")]


def test_the_steps_within_a_time_are_those_of_a_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scratch, "BATCH_SIZE", 2)
    monkeypatch.setattr(scratch, "TRIAL_STEPS", 1)
    texts = [text for pair in 4 * PAIRS for text in pair]
    scratch.build_base(tmp_path / "base", iter(texts))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "base")
    ids = tokenizer("a dog").input_ids
    assert tokenizer.decode(ids, skip_special_tokens=True).strip() == "a dog"
    assert ids[-1] == scratch.END_ID
    assert tokenizer.pad_token_id == len(tokenizer) - 1  # CTranslate2 cuts the last token off
    few, many = (scratch.steps_within(seconds, tmp_path / "base", iter(texts)) for seconds in (1e-9, 3600))
    assert few == 1
    assert many > 100
