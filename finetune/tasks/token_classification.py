"""Named entity recognition: one tag for each token (`tokens` and `tags`), scored by whole entities."""

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import AutoModelForTokenClassification, DataCollatorForTokenClassification, PreTrainedModel

from tuneport.data.reader import Data
from tuneport.data.rows import Problems, numbered_rows, preview
from tuneport.errors import DataError
from tuneport.metrics.entities import Entity, find_entities, score_entities, tag_accuracy
from tuneport.tags import OUTSIDE, Scheme, TagError, detect_scheme

from ..config import FinetuneConfig
from ..evaluate import Evaluation, Mistake, largest_losses
from ..loading import check_input_size, load_pretrained
from ..losses import IGNORED, Loss, TokenLoss
from ..word_tokenizer import load_word_tokenizer
from .base import FinetuneTask, first_output


class Task(FinetuneTask):
    """Rows of `tokens` and `tags`."""

    def __init__(self, data: Data, config: FinetuneConfig) -> None:
        """Check every row; the labels are train's tags, O first, then in the order of their types."""
        super().__init__(data, config)
        problems = Problems("correct these rows, or rename columns with --columns tags=YOUR_COLUMN")
        train, file = data.splits["train"], data.files["train"]
        self.scheme = _detect_scheme(train, file)
        self.tag_scheme = self.scheme.name
        self.label_counts = Counter(tag for _, tags in _readable_tags(train) for tag in tags)
        self.labels = tuple(sorted(self.label_counts, key=self._label_order))
        for split, rows in data.splits.items():
            _check_rows(rows, data.files[split], problems)
            self._check_tags(rows, data.files[split], problems, is_train=split == "train")
        problems.raise_if_any()
        if len(self.labels) < 2:
            raise DataError(f"{file} has one tag, {self.labels[0]!r}", "give rows with at least two")

    def load_processor(self, source: str) -> Any:
        """Load the tokenizer, set to encode lists of words."""
        return load_word_tokenizer(source, self.config)

    def load_model(self, source: str) -> PreTrainedModel:
        """Load the encoder with a new linear head over each token's state."""
        model = load_pretrained(
            AutoModelForTokenClassification,
            source,
            self.config,
            ignore_mismatched_sizes=True,
            id2label=dict(enumerate(self.labels)),
            label2id={label: i for i, label in enumerate(self.labels)},
        )
        check_input_size(model, source, self.config)
        return model

    def encode(self, rows: Dataset, processor: Any, *, train: bool) -> Dataset:
        """Tokenize; `words` is the index of the word that a token begins, else -1, and `labels` that word's tag.

        Both have a value for each token. `truncated` marks rows that lost words beyond `max_length`.
        """
        index = {label: i for i, label in enumerate(self.labels)}

        def encode_batch(batch: dict[str, list[Any]]) -> dict[str, Any]:
            encoded = processor(
                batch["tokens"], is_split_into_words=True, truncation=True, max_length=self.config.max_length
            )
            words = [_first_tokens(encoded.word_ids(i)) for i in range(len(batch["tokens"]))]
            labels = [
                [index[tags[word]] if word >= 0 else IGNORED for word in row]
                for tags, row in zip(batch["tags"], words, strict=True)
            ]
            truncated = [
                _lost_words(encoding, max(row)) for encoding, row in zip(encoded.encodings, words, strict=True)
            ]
            lengths = [len(row) for row in words]
            return {**encoded, "labels": labels, "words": words, "truncated": truncated, "length": lengths}

        return rows.map(encode_batch, batched=True, remove_columns=rows.column_names, desc="tokenize")

    def collator(self, processor: Any, model: PreTrainedModel) -> Any:
        """Pad tokens and targets to the longest row of the batch."""
        return DataCollatorForTokenClassification(processor)

    def loss(self) -> Loss | None:
        """Return the loss for label smoothing; the model's own has none."""
        smoothing = self.config.label_smoothing_factor
        return TokenLoss(smoothing) if smoothing else None

    def reduce_logits(self, logits: Any, labels: torch.Tensor) -> torch.Tensor:
        """Logits (rows, tokens, labels) → the index of each token's best label, int64 (rows, tokens)."""
        best: torch.Tensor = first_output(logits).argmax(-1)
        return best

    def evaluate(self, outputs: Any, targets: Any, rows: Dataset, features: Dataset) -> Evaluation:
        """Score whole entities; a mistake's loss is its number of wrong entities.

        `outputs` are logits (rows, tokens, labels), or the indices (rows, tokens) of `reduce_logits`. A word that was
        truncated, or that the tokenizer drops, is predicted as outside of entities. Wrong entities are those missed
        and those predicted without being there; one with a wrong end or type counts as both.
        """
        best = np.asarray(outputs)
        best = best.argmax(-1) if best.ndim == 3 else best
        expected = [row["tags"] for _, row in numbered_rows(rows.select_columns("tags"))]
        words = (row["words"] for _, row in numbered_rows(features.select_columns("words")))
        predicted = [
            self._word_tags(row_best, row_words, len(tags))
            for row_best, row_words, tags in zip(best, words, expected, strict=True)
        ]
        metrics, classes = score_entities(expected, predicted, self.scheme)
        return Evaluation(
            metrics={**metrics, "accuracy": tag_accuracy(expected, predicted)},
            classes=classes,
            mistakes=self._mistakes(expected, predicted, rows),
        )

    def _word_tags(self, best: Any, words: list[int], count: int) -> list[str]:
        """Convert the best label of each token (tokens,) to the tags of the sentence's `count` words."""
        tags = [OUTSIDE] * count
        for position, word in enumerate(words):
            if word >= 0:
                tags[word] = self.labels[best[position]]
        return tags

    def _mistakes(self, expected: list[list[str]], predicted: list[list[str]], rows: Dataset) -> tuple[Mistake, ...]:
        pairs = zip(expected, predicted, strict=True)
        entities = [tuple(find_entities(tags, self.scheme) for tags in pair) for pair in pairs]
        num_wrong = np.array([len(set(right) ^ set(found)) for right, found in entities], np.float64)
        return tuple(
            Mistake(
                row=i + 1,
                input=" ".join(rows[i]["tokens"]),
                expected=_format_entities(entities[i][0], rows[i]["tokens"]),
                predicted=_format_entities(entities[i][1], rows[i]["tokens"]),
                loss=float(num_wrong[i]),
            )
            for i in largest_losses(num_wrong, num_wrong > 0)
        )

    def _check_tags(self, rows: Dataset, file: str, problems: Problems, *, is_train: bool) -> None:
        known = set(self.labels)
        for number, tags in _readable_tags(rows):
            if problem := self.scheme.find_problem(tags):
                problems.add(f"{file} row {number}", problem)
            elif not is_train and (unknown := [tag for tag in tags if tag not in known]):
                problems.add(f"{file} row {number}", f"tag {unknown[0]!r} is not among train's")

    def _label_order(self, tag: str) -> tuple[bool, str, str]:
        return (tag != OUTSIDE, tag[2:] if self.scheme.is_typed else tag, tag)


def _detect_scheme(train: Dataset, file: str) -> Scheme:
    """Detect the scheme of train's tags; a DataError names a tag of no scheme and its first row."""
    try:
        return detect_scheme(tags for _, tags in _readable_tags(train))
    except TagError as error:
        row = next(number for number, tags in _readable_tags(train) if error.tag in tags)
        remedy = "write all tags in one of BIO, IOB1, BIOES, BILOU and IO"
        raise DataError(f"{file} row {row}: {error}", remedy) from error


def _readable_tags(rows: Dataset) -> Iterator[tuple[int, list[str]]]:
    """Yield the tags of each row with its number, without the values that `_check_rows` reports."""
    for number, row in numbered_rows(rows.select_columns("tags")):
        if isinstance(row["tags"], list):
            yield number, [tag for tag in row["tags"] if isinstance(tag, str) and tag.strip()]


def _check_rows(rows: Dataset, file: str, problems: Problems) -> None:
    """Check that tokens and tags are lists of non-empty strings, of one length."""
    for number, row in numbered_rows(rows):
        place = f"{file} row {number}"
        are_lists = True
        for column in ("tokens", "tags"):
            if not isinstance(row[column], list) or not row[column]:
                are_lists = False
                problems.add(place, f"{column} is {preview(row[column])}, and a list of strings is expected")
                continue
            for i, value in enumerate(row[column], 1):
                if not isinstance(value, str) or not value.strip():
                    problems.add(place, f"number {i} of {column} is {preview(value)}, and a string is expected")
        if are_lists and len(row["tokens"]) != len(row["tags"]):
            problems.add(place, f"{len(row['tokens'])} tokens have {len(row['tags'])} tags")


def _first_tokens(word_ids: list[int | None]) -> list[int]:
    """Return, for each token, the index of the word that it begins, or -1."""
    return [-1 if word is None or word == before else word for before, word in pairwise([None, *word_ids])]


def _lost_words(encoding: Any, last: int) -> bool:
    """Tell whether words after the one of index `last` were truncated; words of zero width have no tokens to lose."""
    rest = (word for part in encoding.overflowing for word in part.word_ids if word is not None)
    return max(rest, default=last) > last


def _format_entities(entities: Iterable[Entity], tokens: list[str]) -> str:
    texts = (f"{entity.type}: {' '.join(tokens[entity.start : entity.end])}" for entity in entities)
    return " | ".join(texts) or "none"
