"""What translation and summarization share: `source` → `target` through an encoder and a decoder."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from datasets import Dataset
from transformers import AutoModelForSeq2SeqLM, DataCollatorForSeq2Seq, PreTrainedModel

from export.files import TuneportError
from finetune.config import FinetuneConfig, refuse_unused
from finetune.data import Data, Problems, rows_of, short
from finetune.evaluate import Evaluation, mistakes_of
from finetune.generation import prepare_to_write, texts_of
from finetune.loading import load_pretrained, load_tokenizer
from finetune.sizes import check_sizes


class Seq2SeqTask(ABC):
    """Checks, encodes and scores rows of `source` and `target`."""

    required: ClassVar[tuple[str, ...]] = ("source", "target")
    optional: ClassVar[tuple[str, ...]] = ()
    greater_is_better: ClassVar[bool] = True
    generates: ClassVar[bool] = True
    labels: tuple[str, ...] = ()

    def __init__(self, data: Data, config: FinetuneConfig) -> None:
        """Check that every source and target is a string with something in it."""
        refuse_unused(config, by=("task",))
        self.config = config
        problems = Problems("correct these rows, or rename columns with --columns source=YOURS,target=YOURS")
        for split, rows in data.splits.items():
            for number, row in rows_of(rows):
                for column in self.required:
                    if not isinstance(row[column], str) or not row[column].strip():
                        problems.add(f"{data.files[split]} row {number}", f"{column} is {short(row[column])}")
        problems.raise_if_any()

    @abstractmethod
    def score(
        self, predicted: Sequence[str], expected: Sequence[str]
    ) -> tuple[dict[str, float], npt.NDArray[np.float64]]:
        """Return the split's metrics, and a score from 0 to 1 for each row, float64 of shape (rows,)."""

    def load_processor(self, source: str) -> Any:
        """Load the tokenizer, set to the languages that the settings name."""
        tokenizer = load_tokenizer(source, self.config)
        for attribute, setting in (("src_lang", "source_language"), ("tgt_lang", "target_language")):
            code = getattr(self.config, setting)
            if code:
                _check_language(tokenizer, attribute, setting, code)
                setattr(tokenizer, attribute, code)
        self.tokenizer = tokenizer
        return tokenizer

    def load_model(self, source: str) -> PreTrainedModel:
        """Load the encoder–decoder, ready to generate."""
        model = load_pretrained(AutoModelForSeq2SeqLM, source, self.config)
        tokenizer = self.load_processor(source)
        lengths = {"max_length": self.config.max_length, "max_target_length": self.config.max_target_length}
        check_sizes(model, tokenizer, source, **lengths)
        if self.config.target_language:
            _begin_with_language(model, tokenizer, self.config.target_language)
        prepare_to_write(model, tokenizer, source, self.config)
        return model

    def encode(self, rows: Dataset, processor: Any, *, train: bool) -> Dataset:
        """Tokenize; `labels` are the target's tokens up to its end token, `cut` tells rows that were too long."""
        prefix, max_length, max_target = (
            self.config.source_prefix,
            self.config.max_length,
            self.config.max_target_length,
        )

        def encode_batch(batch: dict[str, list[str]]) -> dict[str, Any]:
            sources = processor([prefix + text for text in batch["source"]], truncation=True, max_length=max_length)
            targets = processor(text_target=batch["target"], truncation=True, max_length=max_target)
            labels = [_ended(ids, processor.eos_token_id, max_target) for ids in targets["input_ids"]]
            pairs = list(zip(sources["input_ids"], labels, strict=True))
            cut = [a or b for a, b in zip(_cut(sources, max_length), _cut(targets, max_target), strict=True)]
            return {
                "input_ids": sources["input_ids"],
                "attention_mask": sources["attention_mask"],
                "labels": labels,
                "length": [len(source) + len(target) for source, target in pairs],
                "cut": cut,
            }

        return rows.map(encode_batch, batched=True, remove_columns=rows.column_names, desc="tokenize")

    def collator(self, processor: Any, model: PreTrainedModel) -> Any:
        """Pad to the longest of the batch; label smoothing needs the decoder's inputs, which the model makes."""
        return DataCollatorForSeq2Seq(processor, model=model)

    def loss(self) -> Any:
        """Leave the loss to the model."""
        return None

    def evaluate(self, outputs: Any, targets: Any, rows: Dataset, features: Dataset) -> Evaluation:
        """Score generated token ids, int (rows, tokens); a mistake's loss is 1 minus its row's score."""
        predicted, expected = texts_of(outputs, self.tokenizer), [text.strip() for text in rows["target"]]
        metrics, scores = self.score(predicted, expected)
        return Evaluation(metrics=metrics, mistakes=mistakes_of(rows["source"], expected, predicted, 1 - scores))


def _check_language(tokenizer: Any, attribute: str, setting: str, code: str) -> None:
    if not hasattr(tokenizer, attribute):
        raise TuneportError(
            f"{setting} is {code!r} and {type(tokenizer).__name__} marks no languages", f"leave out {setting}"
        )
    if tokenizer.convert_tokens_to_ids(code) in (None, tokenizer.unk_token_id):
        known = [token for token in tokenizer.all_special_tokens if "_" in token]
        raise TuneportError(f"{setting} = {code!r} is not in the tokenizer", f"use one of {', '.join(known)[:200]}")


def _begin_with_language(model: PreTrainedModel, tokenizer: Any, code: str) -> None:
    """Make the model write the target's language: some begin with its code (mBART), others write it first (NLLB)."""
    token = tokenizer.convert_tokens_to_ids(code)
    if tokenizer(text_target="a")["input_ids"][0] == token:
        model.generation_config.forced_bos_token_id = token
    else:
        model.generation_config.decoder_start_token_id = model.config.decoder_start_token_id = token


def _ended(ids: list[int], end: int, limit: int) -> list[int]:
    """Add the end token where the tokenizer doesn't: without it the model never learns to stop."""
    return ids if end in ids[-2:] else [*ids[: limit - 1], end]


def _cut(encoded: Any, limit: int) -> list[bool]:
    if encoded.encodings is None:  # a tokenizer in Python keeps no record of what it cut
        return [len(ids) >= limit for ids in encoded["input_ids"]]
    return [bool(each.overflowing) for each in encoded.encodings]
