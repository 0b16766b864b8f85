"""Words are deleted and replaced in the shares that were asked for, in one copy of each row."""

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from kit.data import write_splits

from tuneport.stages.finetune.augmentation.token_edits import Augmenter
from tuneport.stages.finetune.config import FinetuneConfig
from tuneport.stages.finetune.setup import prepare

Settings = Callable[..., FinetuneConfig]
WORDS = [f"word{i}" for i in range(40)]
ROWS = [{"text": " ".join(WORDS), "label": label} for label in ("film", "vote") * 25]


def _copies(prepared_rows: list[dict[str, str]]) -> list[list[str]]:
    assert [row["text"].split() for row in prepared_rows[: len(ROWS)]] == [WORDS] * len(ROWS)
    return [row["text"].split() for row in prepared_rows[len(ROWS) :]]


@pytest.fixture
def data(tmp_path: Path) -> str:
    return str(write_splits(tmp_path / "data", train=ROWS, validation=ROWS[:4]))


def test_a_share_of_the_words_is_deleted(settings: Settings, data: str) -> None:
    copies = _copies(prepare(settings(data=data, augment_delete=0.25)).data.splits["train"].to_list())
    assert len(copies) == len(ROWS)
    for copy in copies:
        assert copy == [word for word in WORDS if word in copy]  # their order stays
    kept = sum(map(len, copies)) / (len(ROWS) * len(WORDS))
    assert kept == pytest.approx(0.75, abs=0.03)
    assert len({tuple(copy) for copy in copies}) > 40


def test_a_text_keeps_one_word_at_least() -> None:
    augmenter = Augmenter(swap=0.0, delete=0.99, replace=0.0, synonyms={}, seed=1)
    texts = {augmenter.augment_text("one two", random.Random(seed)) for seed in range(50)}
    assert texts <= {"one", "two", "one two"}
    assert "one" in texts


def test_a_share_of_the_words_with_synonyms_is_replaced(settings: Settings, data: str, tmp_path: Path) -> None:
    lexicon = tmp_path / "synonyms.json"
    lexicon.write_text(json.dumps({"WORD1": ["uno"], "word2": ["due", "zwei"], "absent": ["x"]}))
    config = settings(data=data, augment_synonyms=0.5, synonyms=str(lexicon))
    copies = _copies(prepare(config).data.splits["train"].to_list())
    assert len(copies) == len(ROWS)
    firsts, seconds = [copy[1] for copy in copies], [copy[2] for copy in copies]
    assert set(firsts) == {"word1", "uno"}
    assert set(seconds) == {"word2", "due", "zwei"}
    assert firsts.count("uno") / len(copies) == pytest.approx(0.5, abs=0.2)
    assert all([*copy[:1], *copy[3:]] == [*WORDS[:1], *WORDS[3:]] for copy in copies)


def test_all_changes_are_in_one_copy(settings: Settings, data: str, tmp_path: Path) -> None:
    lexicon = tmp_path / "synonyms.json"
    lexicon.write_text(json.dumps({word: ["other"] for word in WORDS}))
    config = settings(data=data, augment_swap=0.2, augment_delete=0.2, augment_synonyms=0.2, synonyms=str(lexicon))
    copies = _copies(prepare(config).data.splits["train"].to_list())
    assert len(copies) == len(ROWS)
    assert all(len(copy) < len(WORDS) for copy in copies)
    assert all("other" in copy for copy in copies)
    kept = [[word for word in copy if word != "other"] for copy in copies]
    assert any(words != sorted(words, key=WORDS.index) for words in kept)


def test_the_seed_decides_the_copies(settings: Settings, data: str) -> None:
    first, again, other = (
        prepare(settings(data=data, augment_delete=0.3, seed=seed)).data.splits["train"]["text"] for seed in (1, 1, 2)
    )
    assert list(first) == list(again)
    assert list(first) != list(other)
