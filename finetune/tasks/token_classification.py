"""Token classification: one tag a token (`tokens` and `tags`), scored by whole entities."""

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
import torch
from datasets import Dataset
from tokenizers.normalizers import Prepend, Sequence
from tokenizers.pre_tokenizers import ByteLevel
from transformers import AutoModelForTokenClassification, DataCollatorForTokenClassification, PreTrainedModel

from export.files import DataError
from finetune.config import FinetuneConfig, refuse_unused
from finetune.data import Data, Problems, rows_of, short
from finetune.entities import OUTSIDE, Entity, detect_scheme, score_entities
from finetune.evaluate import Evaluation, Mistake, worst
from finetune.loading import check_input, load_aligned_tokenizer, load_pretrained
from finetune.tasks import first_output

UNLABELLED = -100
"""Target of what the loss leaves out: special tokens, and all pieces of a word but its first."""


class Task:
    """Checks, encodes and scores rows of `tokens` and `tags`."""

    required: ClassVar[tuple[str, ...]] = ("tokens", "tags")
    optional: ClassVar[tuple[str, ...]] = ()
    best_metric: ClassVar[str] = "f1"
    greater_is_better: ClassVar[bool] = True
    generates: ClassVar[bool] = False

    def __init__(self, data: Data, config: FinetuneConfig) -> None:
        """Check every row; the labels are train's tags as they are given, O first, then type by type."""
        refuse_unused(config, by=("task",))
        self.config = config
        problems = Problems("correct these rows, or rename columns with --columns tags=YOUR_COLUMN")
        train, file = data.splits["train"], data.files["train"]
        self.scheme = detect_scheme(tags for _, tags in _readable_tags(train))
        self.counts = Counter(tag for _, tags in _readable_tags(train) for tag in tags)
        self.labels = tuple(sorted(self.counts, key=self._label_order))
        for split, rows in data.splits.items():
            _check_rows(rows, data.files[split], problems)
            self._check_tags(rows, data.files[split], problems, is_train=split == "train")
        problems.raise_if_any()
        if len(self.labels) < 2:
            raise DataError(f"{file} has one tag, {self.labels[0]!r}", "give rows with at least two")

    def load_processor(self, source: str) -> Any:
        """Load the tokenizer."""
        tokenizer = load_aligned_tokenizer(source, self.config)
        splitter = tokenizer.backend_tokenizer.pre_tokenizer
        if isinstance(splitter, ByteLevel) and not splitter.add_prefix_space:
            # To RoBERTa's kind the blank before a word is part of it, and a list of words has no blanks.
            tokenizer = load_aligned_tokenizer(source, self.config, add_prefix_space=True)
        _begin_with_a_blank(tokenizer)
        return tokenizer

    def load_model(self, source: str) -> PreTrainedModel:
        """Load the encoder under a new linear head over each token's state."""
        model = load_pretrained(
            AutoModelForTokenClassification,
            source,
            self.config,
            ignore_mismatched_sizes=True,
            id2label=dict(enumerate(self.labels)),
            label2id={label: i for i, label in enumerate(self.labels)},
        )
        check_input(model, source, self.config)
        return model

    def encode(self, rows: Dataset, processor: Any, *, train: bool) -> Dataset:
        """Tokenize; `words` is the index of the word that a token begins, else -1, and `labels` that word's tag.

        Both have a value for each token. `cut` tells rows that lost words beyond `max_length`.
        """
        index = {label: i for i, label in enumerate(self.labels)}

        def encode_batch(batch: dict[str, list[Any]]) -> dict[str, Any]:
            encoded = processor(
                batch["tokens"], is_split_into_words=True, truncation=True, max_length=self.config.max_length
            )
            words = [_begun_words(encoded.word_ids(i)) for i in range(len(batch["tokens"]))]
            labels = [
                [index[tags[word]] if word >= 0 else UNLABELLED for word in begun]
                for tags, begun in zip(batch["tags"], words, strict=True)
            ]
            cut = [max(begun) + 1 < len(tokens) for begun, tokens in zip(words, batch["tokens"], strict=True)]
            lengths = [len(begun) for begun in words]
            return {**encoded, "labels": labels, "words": words, "cut": cut, "length": lengths}

        return rows.map(encode_batch, batched=True, remove_columns=rows.column_names, desc="tokenize")

    def collator(self, processor: Any, model: PreTrainedModel) -> Any:
        """Pad tokens and targets to the longest text of the batch."""
        return DataCollatorForTokenClassification(processor)

    def loss(self) -> None:
        """Leave the loss to the model."""

    def reduce(self, logits: Any, labels: torch.Tensor) -> torch.Tensor:
        """Logits (rows, tokens, labels) → the index of each token's best label, int64 (rows, tokens)."""
        best: torch.Tensor = first_output(logits).argmax(-1)
        return best

    def evaluate(self, outputs: Any, targets: Any, rows: Dataset, features: Dataset) -> Evaluation:
        """Score by entities the logits (rows, tokens, labels), or what `reduce` made of them.

        A mistake's loss is its number of wrong entities.
        A word that was cut, or of which the tokenizer left nothing, is predicted to be outside of entities. Wrong
        entities are those missed and those invented; one with a wrong end or type is both.
        """
        best = np.asarray(outputs)
        best = best.argmax(-1) if best.ndim == 3 else best
        expected = [row["tags"] for _, row in rows_of(rows.select_columns("tags"))]
        words = (row["words"] for _, row in rows_of(features.select_columns("words")))
        predicted = [self._tags(*each) for each in zip(best, words, map(len, expected), strict=True)]
        metrics, classes = score_entities(expected, predicted, self.scheme)
        right = [a == b for pair in zip(expected, predicted, strict=True) for a, b in zip(*pair, strict=True)]
        return Evaluation(
            metrics={**metrics, "accuracy": float(np.mean(right))},
            classes=classes,
            mistakes=self._mistakes(expected, predicted, rows),
        )

    def _tags(self, best: Any, words: list[int], count: int) -> list[str]:
        """Bring the best label of each token (tokens,) to the sentence's `count` words."""
        tags = [OUTSIDE] * count
        for position, word in enumerate(words):
            if word >= 0:
                tags[word] = self.labels[best[position]]
        return tags

    def _mistakes(self, expected: list[list[str]], predicted: list[list[str]], rows: Dataset) -> tuple[Mistake, ...]:
        entities = [tuple(map(self.scheme.entities, pair)) for pair in zip(expected, predicted, strict=True)]
        wrong = np.array([len(set(right) ^ set(guessed)) for right, guessed in entities], np.float64)
        return tuple(
            Mistake(
                row=i + 1,
                input=" ".join(rows[i]["tokens"]),
                expected=_shown(entities[i][0], rows[i]["tokens"]),
                predicted=_shown(entities[i][1], rows[i]["tokens"]),
                loss=float(wrong[i]),
            )
            for i in worst(wrong, wrong > 0)
        )

    def _check_tags(self, rows: Dataset, file: str, problems: Problems, *, is_train: bool) -> None:
        known = set(self.labels)
        for number, tags in _readable_tags(rows):
            for tag in dict.fromkeys(tags):
                if self.scheme.is_malformed(tag):
                    said = f"tag {tag!r} is malformed, and O or B-, I-, E-, S- with a type is expected"
                    problems.add(f"{file} row {number}", said)
                elif not is_train and tag not in known:
                    problems.add(f"{file} row {number}", f"tag {tag!r} is not among train's")

    def _label_order(self, tag: str) -> tuple[bool, str, str]:
        return (tag != OUTSIDE, tag[2:] if self.scheme.is_typed else tag, tag)


def _readable_tags(rows: Dataset) -> Iterator[tuple[int, list[str]]]:
    """Go through the tags of a split with their row numbers, leaving out what `_check_rows` reports."""
    for number, row in rows_of(rows.select_columns("tags")):
        if isinstance(row["tags"], list):
            yield number, [tag for tag in row["tags"] if isinstance(tag, str) and tag.strip()]


def _check_rows(rows: Dataset, file: str, problems: Problems) -> None:
    """Check that tokens and tags are lists of strings with something in them, of one length."""
    for number, row in rows_of(rows):
        place = f"{file} row {number}"
        are_lists = True
        for column in ("tokens", "tags"):
            if not isinstance(row[column], list) or not row[column]:
                are_lists = False
                problems.add(place, f"{column} is {short(row[column])}, and a list of strings is expected")
                continue
            for i, value in enumerate(row[column], 1):
                if not isinstance(value, str) or not value.strip():
                    problems.add(place, f"number {i} of {column} is {short(value)}, and a string is expected")
        if are_lists and len(row["tokens"]) != len(row["tags"]):
            problems.add(place, f"{len(row['tokens'])} tokens have {len(row['tags'])} tags")


def _begin_with_a_blank(tokenizer: Any) -> None:
    """Make words in a list the words that they are in a text, where the tokenizer marks blanks late (Llama 3, Qwen).

    Such a tokenizer splits a text before it marks the blanks, so the mark has to be in the text: each word, like the
    beginning of each text, gets a blank. It is a part of tokenizer.json, and so of all that the checkpoint becomes.
    """
    backend = tokenizer.backend_tokenizer
    before = backend.normalizer
    if not _is_text(tokenizer):
        backend.normalizer = Sequence([*([before] if before else []), Prepend(" ")])
        if not _is_text(tokenizer):
            backend.normalizer = before


def _is_text(tokenizer: Any) -> bool:
    words = tokenizer(["a", "b"], is_split_into_words=True, add_special_tokens=False)
    return bool(words["input_ids"] == tokenizer("a b", add_special_tokens=False)["input_ids"])


def _begun_words(word_ids: list[int | None]) -> list[int]:
    """Keep a word's index at its first token; -1 elsewhere."""
    return [-1 if word is None or word == before else word for before, word in pairwise([None, *word_ids])]


def _shown(entities: Iterable[Entity], tokens: list[str]) -> str:
    return " | ".join(f"{each.type}: {' '.join(tokens[each.start : each.end])}" for each in entities) or "none"
