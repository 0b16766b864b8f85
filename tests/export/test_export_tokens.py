"""Token classification of every family, exported without a run: entities are those of transformers."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from kit.data import write_rows, write_splits
from kit.encoders import FAMILIES, tiny_encoder
from kit.exports import export_variants
from kit.untrained import BYTE_LEVEL, NO_TYPES, export_untrained, text
from transformers import AutoTokenizer

from tuneport.errors import DataError, InputError
from tuneport.runtime.predictor import Predictor
from tuneport.runtime.words import split_words


@pytest.fixture(scope="module")
def tagger(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Checkpoint and artifact of a BERT for token classification."""
    return export_untrained(tmp_path_factory.mktemp("tagger"), "token-classification", "bert")


@pytest.mark.parametrize("family", FAMILIES)
def test_entities_of_words_and_of_text(family: str, tagger: tuple[Path, Path], tmp_path: Path) -> None:
    is_bert = family == "bert"
    checkpoint, artifact = tagger if is_bert else export_untrained(tmp_path, "token-classification", family)
    predictor = Predictor(artifact)
    words = "anna met ben in paris".split()
    tokenizer = AutoTokenizer.from_pretrained(
        checkpoint, **({"add_prefix_space": True} if family in BYTE_LEVEL else {})
    )
    model = transformers.AutoModelForTokenClassification.from_pretrained(checkpoint).eval()
    feeds = tokenizer([words], is_split_into_words=True, return_tensors="pt")
    with torch.inference_mode():
        best = model(**{name: feeds[name] for name in feeds if name != "token_type_ids" or family not in NO_TYPES})
        best = best.logits[0].argmax(-1)
    positions = [feeds.word_ids(0).index(i) for i in range(len(words))]
    tags = [model.config.id2label[int(best[position])] for position in positions]
    answer = predictor.predict([{"tokens": words}])[0]
    tagged = [word for word, tag in zip(words, tags, strict=True) if tag != "O"]
    assert " ".join(each["text"] for each in answer).split() == tagged
    sentence = "Anna met Ben, in Paris."
    entities = predictor.predict([sentence])[0]
    assert entities
    assert [sentence[each["start"] : each["end"]] for each in entities] == [each["text"] for each in entities]


def test_a_long_text_is_read_in_windows(tagger: tuple[Path, Path]) -> None:
    """Nothing is truncated: words far beyond the maximum length are tagged."""
    sentence = text(200)
    (answer,) = Predictor(tagger[1]).predict([sentence])
    assert max(entity["end"] for entity in answer) > len(sentence) * 0.9
    assert all(sentence[entity["start"] : entity["end"]] == entity["text"] for entity in answer)


def test_texts_without_tags_are_data_enough(tagger: tuple[Path, Path], tmp_path: Path) -> None:
    texts = write_rows(tmp_path / "texts.jsonl", [{"note": text(3 + i % 9)} for i in range(100)])
    manifest = export_variants(
        tagger[0], texts, tmp_path / "out", columns={"tokens": "note"}, unlabelled=True, tag_scheme="BIO"
    )
    assert manifest.variant("fp32").evidence.parity.texts == 100
    assert manifest.variant("fp32").evidence.metric is None


def test_words_of_text_keep_inner_punctuation_and_lose_outer() -> None:
    sentence = "“Well-known U.S. firms,” said O'Neil (42): 東京です。"
    words = [sentence[start:end] for start, end in split_words(sentence)]
    assert words == [
        "“", "Well-known", "U.S", ".", "firms", ",", "”", "said", "O'Neil", "(", "42", ")", ":",
        "東", "京", "で", "す", "。",
    ]  # fmt: skip


@pytest.mark.parametrize("tokens", [[], ["a"], "a b", ["a", 7], ["a", " "], None])
def test_lists_of_words_are_checked(tagger: tuple[Path, Path], tokens: Any) -> None:
    task = Predictor(tagger[1]).task
    if tokens in ([], ["a"]):
        assert task.parse_input({"tokens": tokens}).text == "".join(tokens)
    else:
        with pytest.raises(InputError, match="tokens"):
            task.parse_input({"tokens": tokens})


def test_every_row_that_the_model_cannot_predict_is_listed(tmp_path: Path) -> None:
    tiny_encoder(tmp_path / "checkpoint")
    options = {"id2label": {0: "O", 1: "B-X"}}
    model = transformers.AutoModelForTokenClassification.from_pretrained(tmp_path / "checkpoint", **options)
    model.save_pretrained(tmp_path / "checkpoint")
    rows = [{"tokens": ["a"], "tags": ["O"]}, {"tokens": ["a"], "tags": ["B-Z"]}, {"tokens": ["a"], "tags": ["Q"]}]
    data = write_splits(tmp_path / "data", train=rows, validation=rows)
    with pytest.raises(DataError, match=r"row 2: tag 'B-Z'.*row 3: tag 'Q'"):
        export_variants(tmp_path / "checkpoint", data, tmp_path / "artifact", "fp32")
    assert not (tmp_path / "artifact").exists()
