"""Chinese, Japanese and Thai: metrics by characters where there are no words, and edits that change such text."""

import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import sacrebleu
from datasets import Dataset
from kit.data import write_rows

from tuneport.data.sample import read_sample
from tuneport.metrics.spans import answer_f1, exact_match
from tuneport.metrics.text import (
    bleu,
    bleu_tokenizer,
    character_error_rate,
    chrf,
    chrf_each,
    rouge_each,
    word_error_rate,
)
from tuneport.runtime.words import split_words
from tuneport.scripts import is_unspaced, separate_characters
from tuneport.stages.export.tasks.text_generation import Task as TextGeneration
from tuneport.stages.finetune.augmentation.token_edits import Augmenter

CHINESE = "今天天气很好，我们去公园散步。"
NEAR = "今天天气很好，我们去学校散步。"
JAPANESE = "今日は天気がいいです。"
THAI = "วันนี้อากาศดี"
ENGLISH = "the weather is good today"


@pytest.mark.parametrize(
    ("texts", "tokenizer"),
    [
        ([CHINESE, "我用 iPhone 手机"], "zh"),
        ([JAPANESE], "char"),
        ([THAI], "char"),
        ([ENGLISH, "caf\u00e9 au lait"], "13a"),
        (["오늘 날씨가 좋다"], "13a"),  # Korean has spaces
        (["He said 你好 and went home again"], "13a"),
        ([], "13a"),
    ],
)
def test_the_references_choose_bleus_tokenizer(texts: list[str], tokenizer: str) -> None:
    assert bleu_tokenizer(texts) == tokenizer
    assert is_unspaced(texts) == (tokenizer != "13a")


def test_bleu_and_chrf_of_chinese_grade_what_is_nearly_right() -> None:
    """With 13a the whole sentence is one token, and this translation has no word right."""
    assert bleu([CHINESE], [CHINESE]) == pytest.approx(1.0)
    expected = sacrebleu.corpus_bleu([NEAR], [[CHINESE]], tokenize="zh").score / 100
    assert bleu([NEAR], [CHINESE]) == pytest.approx(expected)
    assert 0.5 < bleu([NEAR], [CHINESE]) < 0.9
    assert sacrebleu.corpus_bleu([NEAR], [[CHINESE]]).score < 50
    assert 0.5 < chrf([NEAR], [CHINESE]) < 0.9
    assert chrf(["今 天 天 气"], ["今天天气"]) == pytest.approx(1.0)  # as a tokenizer of characters decodes
    assert chrf_each([NEAR], [CHINESE])[0] == pytest.approx(chrf([NEAR], [CHINESE]), abs=0.05)


def test_bleu_of_english_is_sacrebleus_own() -> None:
    predicted, expected = ["the weather is bad today , they say"], ["the weather is good today , they say"]
    assert bleu(predicted, expected) == pytest.approx(sacrebleu.corpus_bleu(predicted, [expected]).score / 100)


def test_rouge_of_chinese_counts_characters() -> None:
    """Five of six characters, and four of five pairs of neighbours."""
    scores = rouge_each(["我爱北京天门"], ["我爱北京天安"])
    assert scores["rouge1"][0] == pytest.approx(5 / 6)
    assert scores["rouge2"][0] == pytest.approx(4 / 5)
    assert scores["rougeL"][0] == pytest.approx(5 / 6)
    mixed = rouge_each(["我用 iPhones"], ["我用iPhone"])
    assert mixed["rouge1"][0] == 1.0  # with the stem of the English word
    assert rouge_each([THAI], [THAI])["rougeL"][0] == 1.0


def test_f1_of_chinese_answers_counts_characters_as_cmrc_does() -> None:
    assert answer_f1("北京市", ["北京"]) == pytest.approx(2 * 2 / (3 + 2))
    assert answer_f1("上海", ["北京"]) == 0
    assert exact_match("《红楼梦》。", ["红楼梦"]) == 1
    assert exact_match("红楼", ["红楼梦"]) == 0
    assert answer_f1("1949 年 10 月", ["1949年10月"]) == 1
    assert answer_f1("the big river", ["a Big river!"]) == 1  # as SQuAD has it


def test_error_rates_of_chinese_count_characters() -> None:
    """One of six characters is wrong: as words, the whole sentence would be."""
    assert character_error_rate(["我爱北京天门"], ["我爱北京天安"]) == pytest.approx(1 / 6)
    assert word_error_rate(["我爱北京天门"], ["我爱北京天安"]) == pytest.approx(1 / 6)
    assert word_error_rate(["我爱 Paris"], ["我爱 London"]) == pytest.approx(1 / 3)
    assert word_error_rate(["the big river"], ["the old river"]) == pytest.approx(1 / 3)


def test_thai_vowels_and_tones_stay_with_their_character() -> None:
    assert separate_characters("ที่นี่").split() == ["ที่", "นี่"]
    assert separate_characters("が\u3099 x").split() == ["が\u3099", "x"]
    assert separate_characters(ENGLISH) == ENGLISH


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("हिन्दी", ["हिन्दी"]),
        ("नमस्ते दुनिया।", ["नमस्ते", "दुनिया", "।"]),
        ("cafe\u0301", ["cafe\u0301"]),
        ("cafe\u0301 U.S. well-known", ["cafe\u0301", "U.S", ".", "well-known"]),
        ("שָׁלוֹם", ["שָׁלוֹם"]),
        ("我爱", ["我", "爱"]),
        ("ที่นี่", ["ที่", "นี่"]),
        ("❤\ufe0f ok", ["❤\ufe0f", "ok"]),
    ],
)
def test_a_word_keeps_the_combining_mark_at_its_end(text: str, words: list[str]) -> None:
    assert [text[start:end] for start, end in split_words(text)] == words


def augmenter(swap: float = 0.0, delete: float = 0.0, replace: float = 0.0, **synonyms: list[str]) -> Augmenter:
    return Augmenter(swap, delete, replace, synonyms, seed=1)


def test_chinese_texts_are_augmented_by_characters() -> None:
    rows = Dataset.from_list([{"text": CHINESE}])
    for edits in (augmenter(swap=0.5), augmenter(delete=0.3)):
        [copy] = edits.augment_rows(rows)["text"]
        assert copy != CHINESE
        assert " " not in copy
        assert not Counter(copy) - Counter(CHINESE)
    [swapped] = augmenter(swap=0.5).augment_rows(rows)["text"]
    assert Counter(swapped) == Counter(CHINESE)
    assert len(augmenter(delete=0.999).augment_text(CHINESE, random.Random(0))) == 1


def test_synonyms_of_chinese_words_are_found_in_the_text() -> None:
    edits = augmenter(replace=1.0, 天气=["气候"], 天=["日"], 公园=["花园"], phone=["mobile"])
    text = edits.augment_text("今天天气很好，我的 Phone 在公园", random.Random(0))
    assert text == "今日气候很好，我的 mobile 在花园"


def test_texts_with_spaces_keep_one_between_words() -> None:
    assert augmenter(swap=0.5).augment_text("  the  big\triver ", random.Random(1)).count(" ") == 2
    words = ENGLISH.split()
    for seed in range(20):
        left = augmenter(delete=0.5).augment_text(ENGLISH, random.Random(seed)).split()
        assert left == [word for word in words if word in left]
    assert augmenter(delete=0.5).augment_text("", random.Random(0)) == ""


class _Reader(TextGeneration):
    columns = ("text",)
    optional_columns = ()

    def __init__(self) -> None:
        """Without a checkpoint."""


def test_half_of_a_chinese_text_is_the_answer_of_text_generation(tmp_path: Path) -> None:
    write_rows(tmp_path / "x.jsonl", [{"text": "今天天气"}] * 12)
    file, options = str(tmp_path / "x.jsonl"), {"columns": {}, "seed": 0, "splits": ("validation",), "count": 9}
    sample = read_sample(_Reader(), data=file, **options)
    assert sample.inputs[0] == {"text": "今天", "answer": "天气"}
    assert np.array(sample.targets).tolist() == ["天气"] * len(sample.targets)
