from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kit.data import read_rows
from kit.encoders import MAX_LENGTH
from kit.texts import WORDS
from kit.tokenizers import byte_tokenizer, word_tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from tuneport.errors import ArtifactError
from tuneport.runtime.batch import EncodedInput, padded_batch
from tuneport.runtime.processor import TextProcessor
from tuneport.runtime.tokenizer import TextTokenizer
from tuneport.schema.artifact import TOKENIZER, Generation, Manifest, Processing


@pytest.fixture(scope="module")
def ours(tiny_artifact: Path, manifest: Manifest) -> TextTokenizer:
    return TextTokenizer(tiny_artifact / TOKENIZER, manifest.processing)


@pytest.fixture(scope="module")
def theirs(tiny_checkpoint: Path) -> PreTrainedTokenizerFast:
    tokenizer: PreTrainedTokenizerFast = AutoTokenizer.from_pretrained(tiny_checkpoint)
    return tokenizer


def assert_same(
    ours: TextTokenizer, theirs: PreTrainedTokenizerFast, text: str, pair: str | None = None
) -> EncodedInput:
    """Compare with transformers' own tokenizer, and the flag with the length that it finds without a limit."""
    row = ours.encode([text if pair is None else (text, pair)])[0]
    # In lists, as training calls it: given a single empty pair it leaves the pair out.
    pairs = None if pair is None else [pair]
    expected = theirs([text], pairs, truncation=True, max_length=MAX_LENGTH, verbose=False)
    whole = theirs([text], pairs, truncation=False, verbose=False)["input_ids"][0]
    assert row.ids == expected["input_ids"][0]
    assert row.type_ids == expected["token_type_ids"][0]
    assert row.truncated == (len(whole) > MAX_LENGTH)
    return row


def test_golden_texts(ours: TextTokenizer, theirs: PreTrainedTokenizerFast, tiny_artifact: Path) -> None:
    cases = read_rows(tiny_artifact / "golden.jsonl")
    flags = [assert_same(ours, theirs, case["input"]).truncated for case in cases]
    assert {True, False} == set(flags)


@settings(max_examples=300)
@given(text=st.text(max_size=400) | st.lists(st.sampled_from(WORDS), max_size=120).map(" ".join))
def test_random_texts(ours: TextTokenizer, theirs: PreTrainedTokenizerFast, text: str) -> None:
    assert_same(ours, theirs, text)


@settings(max_examples=100)
@given(
    text=st.text(max_size=200) | st.lists(st.sampled_from(WORDS), max_size=80).map(" ".join),
    pair=st.text(max_size=200) | st.lists(st.sampled_from(WORDS), max_size=80).map(" ".join),
)
def test_random_pairs(ours: TextTokenizer, theirs: PreTrainedTokenizerFast, text: str, pair: str) -> None:
    assert_same(ours, theirs, text, pair)


UNUSUAL_CHARACTERS = "ab é\t\n\r\x0b\x1c\x1d\x85\xa0\u2028\u3000世\u0301\u00ad.-🙂"


# Around the length at which only a prefix is read, white space of every kind included.
@settings(max_examples=200)
@given(
    unit=st.text(st.sampled_from(UNUSUAL_CHARACTERS), min_size=1, max_size=40),
    size=st.integers(16 * MAX_LENGTH - 20, 16 * MAX_LENGTH + 400),
)
def test_long_random_texts(ours: TextTokenizer, theirs: PreTrainedTokenizerFast, unit: str, size: int) -> None:
    assert_same(ours, theirs, (unit * size)[:size])


MILLION = {
    "words": ("the bank fell " * 75_000, True),
    "long words": ("supercalifragilisticexpialidocious " * 30_000, True),
    "no spaces in it": ("世界" * 170_000, True),
    "a word a page": (("a" * 2_000 + " ") * 500, True),
    "a word, then a page of one": (("the " + "a" * 3_000 + " ") * 333, True),  # the prefix holds one token
    "blanks then words": (" " * 999_000 + "the bank fell " * 100, True),
    "one word": ("a" * 1_000_000, False),
    "blanks": (" " * 1_000_000, False),
    "word then blanks": ("the" + " " * 1_000_000, False),
    "removed by the normalizer": ("\x00\u00ad" * 350_000, False),
}
"""A megabyte of text each, and whether tokens of it are cut."""


@pytest.mark.parametrize("kind", MILLION)
def test_a_text_of_a_megabyte(ours: TextTokenizer, theirs: PreTrainedTokenizerFast, kind: str) -> None:
    text, truncated = MILLION[kind]
    row = ours.encode([text])[0]
    assert row.ids == theirs(text, truncation=True, max_length=MAX_LENGTH)["input_ids"]
    assert row.truncated == truncated


def test_a_prefix_ends_with_a_whole_word(ours: TextTokenizer, theirs: PreTrainedTokenizerFast) -> None:
    """A hundred letters and more are one unknown token, while their beginning would be many known ones."""
    text = ("🙂" * 15 + " ") * (MAX_LENGTH - 3) + "a" * 150 + " bank" * 100
    assert_same(ours, theirs, text)


@pytest.mark.parametrize("kind", ["words", "long words"])
def test_of_a_megabyte_of_words_only_the_beginning_is_tokenized(
    ours: TextTokenizer, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    seen: list[str] = []

    class Spy:
        def encode_batch(self, texts: list[str]) -> list[object]:
            seen.extend(texts)
            return list(inner.encode_batch(texts))

    inner = ours._tokenizer
    monkeypatch.setattr(ours, "_tokenizer", Spy())
    assert ours.encode([MILLION[kind][0]])[0].truncated
    assert {len(text) <= 16 * MAX_LENGTH for text in seen} == {True}


@pytest.mark.parametrize("words", [MAX_LENGTH - 3, MAX_LENGTH - 2, MAX_LENGTH - 1])
def test_the_flag_at_the_limit(ours: TextTokenizer, theirs: PreTrainedTokenizerFast, words: int) -> None:
    """[CLS] and [SEP] take two of the places."""
    row = assert_same(ours, theirs, " ".join(["bank"] * words))
    assert len(row) == min(words + 2, MAX_LENGTH)
    assert row.truncated == (words > MAX_LENGTH - 2)


@pytest.mark.parametrize(("first", "second"), [(30, 31), (31, 31), (100, 2), (2, 100), (100, 100), (0, 0)])
def test_pairs_at_the_limit(ours: TextTokenizer, theirs: PreTrainedTokenizerFast, first: int, second: int) -> None:
    row = assert_same(ours, theirs, " ".join(["bank"] * first), " ".join(["fell"] * second))
    assert row.truncated == (first + second + 3 > MAX_LENGTH)


def test_texts_keep_their_order(ours: TextTokenizer) -> None:
    texts = [MILLION["words"][0], "the", MILLION["word then blanks"][0], "bank fell"]
    together = ours.encode(texts)
    assert together == [ours.encode([text])[0] for text in texts]


def test_padding_gives_int64_arrays_of_the_longest_row() -> None:
    rows = [EncodedInput([5, 6, 7], [0, 0, 1], False), EncodedInput([8], [0], False)]
    feeds = padded_batch(rows, Processing(max_length=8, pad_token_id=9)).feeds
    assert {values.dtype for values in feeds.values()} == {np.dtype(np.int64)}
    assert feeds["input_ids"].tolist() == [[5, 6, 7], [8, 9, 9]]
    assert feeds["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert feeds["token_type_ids"].tolist() == [[0, 0, 1], [0, 0, 0]]


def test_padding_on_the_left_keeps_the_end_of_rows_aligned() -> None:
    rows = [EncodedInput([5, 6, 7], [0, 0, 1], False), EncodedInput([8], [0], False)]
    processing = Processing(max_length=8, pad_token_id=9, pad_token_type_id=3, padding_side="left")
    feeds = padded_batch(rows, processing).feeds
    assert feeds["input_ids"].tolist() == [[5, 6, 7], [9, 9, 8]]
    assert feeds["attention_mask"].tolist() == [[1, 1, 1], [0, 0, 1]]
    assert feeds["token_type_ids"].tolist() == [[0, 0, 1], [3, 3, 0]]


def test_a_file_that_is_no_tokenizer_is_an_artifact_error(tmp_path: Path, manifest: Manifest) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ArtifactError, match="is not a tokenizer"):
        TextTokenizer(tmp_path / "tokenizer.json", manifest.processing)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("kind", ["words", "bytes"])
def test_of_a_long_prompt_a_part_is_read_and_cut_as_transformers_cuts_the_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, side: Literal["left", "right"]
) -> None:
    """A decoder's prompt loses its beginning, a translator's source its end."""
    limit = 12
    theirs = word_tokenizer() if kind == "words" else byte_tokenizer(["the bank fell and the team won"])
    theirs.save_pretrained(tmp_path)
    generation = Generation(max_new_tokens=4, positions=limit)
    processing = Processing(max_length=limit, pad_token_id=0, padding_side=side, generation=generation)
    ours = TextProcessor(tmp_path, processing)
    theirs.truncation_side = side
    lengths: list[int] = []
    inner = ours.tokenizer

    class Spy(type(inner)):  # type: ignore[misc]
        def __call__(self, text: str, **options: object) -> object:
            lengths.append(len(text))
            return super().__call__(text, **options)

    monkeypatch.setattr(inner, "__class__", Spy)
    long = "eins  zwei\n\ndrei the bank fell " * 5000
    for text in (long, f"{'x' * 40_000} eins", f"eins {'x' * 40_000}", " " * 5000 + "zwei", "zwei" + " " * 5000, ""):
        ((ids, is_cut),) = ours.encode([text])
        whole = theirs(text, verbose=False)["input_ids"]
        assert ids == (theirs(text, truncation=True, max_length=limit)["input_ids"] or ids)
        assert is_cut == (len(whole) > limit)
        assert ours.ids(text, 5) == (whole[:5] or ids)
        if text is long:
            assert max(lengths) <= 64 * (limit + 1)
