"""Of a long text only a part is tokenized, with the tokens of the whole, whatever the kind of tokenizer."""

import random
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kit.texts import WORDS
from kit.tokenizers import byte_level_encoder_tokenizer, llama_tokenizer, metaspace_bpe, unigram, word_piece
from tokenizers import Tokenizer

from tuneport.errors import InputError
from tuneport.runtime.prefixes import CHARS_A_TOKEN, CUTS
from tuneport.runtime.tokenizer import Text, TextTokenizer
from tuneport.schema.artifact import TOKENIZER, Processing

KINDS = {
    "word piece": word_piece,
    "byte-level BPE": lambda: byte_level_encoder_tokenizer("roberta").backend_tokenizer,
    "BPE with a pattern": lambda: llama_tokenizer().backend_tokenizer,
    "BPE without words": metaspace_bpe,
    "unigram": unigram,
    "unigram without words": lambda: unigram(split=False),
}
LENGTH = 17
"""Odd without a pair's special tokens for some of the kinds, and even for others."""
FIRST_PART, LONG = CHARS_A_TOKEN * LENGTH, CHARS_A_TOKEN * LENGTH * (CUTS + 8)
CHARACTERS = "abe .,-'7é\u0301\t\n\x0b\x1c\x1d\x85\xa0\u2028\u3000\u00ad\x00世界🙂ﬁ①"


@cache
def opened(kind: str, folder: Path) -> tuple[TextTokenizer, Tokenizer]:
    """Return ours, and the library's own with truncation, which reads the whole text."""
    theirs = KINDS[kind]()
    theirs.no_truncation()
    theirs.save(str(folder / TOKENIZER))
    theirs.enable_truncation(LENGTH)
    return TextTokenizer(folder / TOKENIZER, Processing(max_length=LENGTH, pad_token_id=0)), theirs


@pytest.fixture(scope="module", params=KINDS)
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[TextTokenizer, Tokenizer]:
    return opened(request.param, tmp_path_factory.mktemp("tokenizer"))


def assert_same(both: tuple[TextTokenizer, Tokenizer], text: Text) -> None:
    ours, theirs = both
    expected = theirs.encode(*((text,) if isinstance(text, str) else text))
    if not expected.ids:  # nothing to run
        with pytest.raises(InputError, match="no tokens"):
            ours.encode([text])
        return
    row = ours.encode([text])[0]
    assert row.ids == expected.ids
    assert row.type_ids == expected.type_ids
    assert row.truncated == bool(expected.overflowing)
    assert row.encoding is not None
    assert row.encoding.offsets == expected.offsets
    assert row.encoding.sequence_ids == expected.sequence_ids


def repeated(units: list[str], size: int) -> str:
    """Return a text of `size` characters: the units in a random but seeded order."""
    generator = random.Random(size)
    chosen: list[str] = []
    while sum(map(len, chosen)) < size:
        chosen += generator.choices(units, k=64)
    return "".join(chosen)[:size]


units = st.lists(
    st.text(st.sampled_from(CHARACTERS), min_size=1, max_size=30) | st.sampled_from([" " + word for word in WORDS]),
    min_size=1,
    max_size=4,
)
sizes = st.integers(FIRST_PART - 20, FIRST_PART + 60) | st.integers(LONG - 20, 2 * LONG)
texts = st.builds(repeated, units, sizes)
SETTINGS = settings(max_examples=80, derandomize=True)


@SETTINGS
@given(text=texts)
def test_a_long_text_has_the_tokens_of_the_whole(both: tuple[TextTokenizer, Tokenizer], text: str) -> None:
    assert_same(both, text)


@SETTINGS
@given(first=texts | st.text(max_size=60), second=texts | st.text(max_size=60))
def test_a_long_pair_has_the_tokens_of_the_whole(
    both: tuple[TextTokenizer, Tokenizer], first: str, second: str
) -> None:
    assert_same(both, (first[:320], second[:320]))  # the library's own way takes the product of both lengths


def test_one_word_of_one_character(both: tuple[TextTokenizer, Tokenizer]) -> None:
    """Whether an odd number of characters is a pair more or less shows only at the end."""
    for size in (LONG, LONG + 1, LONG + 2):
        assert_same(both, "a" * size)
        assert_same(both, "ab" * size)
        assert_same(both, "the " + "a" * size)


def test_a_pair_is_truncated_like_a_pair(both: tuple[TextTokenizer, Tokenizer]) -> None:
    """The longer text loses tokens first; of an odd number the longer one keeps one more."""
    for first, second in [(3, 40), (40, 3), (40, 41), (41, 40), (40, 40), (0, 40), (40, 0), (300, 301), (301, 300)]:
        assert_same(both, ("bank " * first, "fell " * second))


@pytest.mark.parametrize("unit", ["世界", "abcdefgh,", "the bank fell ", "ab7🙂"])
def test_the_work_does_not_grow_with_the_text(
    both: tuple[TextTokenizer, Tokenizer], unit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = both
    if len(set(theirs.encode(unit * 40, add_special_tokens=False).ids)) == 1:
        return  # one unknown token however long
    read: list[int] = []
    inner = ours._tokenizer

    class Spy:
        def encode_batch(self, texts: list[str], **options: bool) -> object:
            read.append(sum(map(len, texts)))
            return inner.encode_batch(texts, **options)

    monkeypatch.setattr(ours, "_tokenizer", Spy())
    text = unit * (1_000_000 // len(unit))
    assert ours.encode([text])[0].ids == theirs.encode(text[: 4 * FIRST_PART]).ids
    assert sum(read) <= 2 * (CUTS + 2) * 4 * FIRST_PART
