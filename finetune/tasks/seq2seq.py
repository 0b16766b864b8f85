"""What translation and summarization share: `source` → `target` by an encoder–decoder."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from datasets import Dataset
from transformers import AutoModelForSeq2SeqLM, DataCollatorForSeq2Seq, PreTrainedModel

from tuneport.data.reader import Data
from tuneport.data.rows import Problems, check_strings
from tuneport.errors import TuneportError

from ..config import FinetuneConfig
from ..evaluate import Evaluation, worst_mistakes
from ..generation import configure_generation, decode_texts
from ..loading import load_pretrained, load_tokenizer
from ..losses import Loss, TokenLoss
from ..model_limits import check_sizes
from ..truncation import are_truncated
from .base import FinetuneTask


class Seq2SeqTask(FinetuneTask):
    """Rows of `source` and `target`."""

    generates: ClassVar[bool] = True

    def __init__(self, data: Data, config: FinetuneConfig) -> None:
        """Check that every source and target is a non-empty string."""
        super().__init__(data, config)
        problems = Problems("correct these rows, or rename columns with --columns source=YOURS,target=YOURS")
        for split, rows in data.splits.items():
            check_strings(rows, data.files[split], problems, self.spec.columns)
        problems.raise_if_any()

    @abstractmethod
    def score(
        self, predicted: Sequence[str], expected: Sequence[str]
    ) -> tuple[dict[str, float], npt.NDArray[np.float64]]:
        """Compute the split's metrics, and a score from 0 to 1 for each row, float64 of shape (rows,)."""

    def load_processor(self, source: str) -> Any:
        """Load the tokenizer, set to the languages of the settings."""
        tokenizer = load_tokenizer(source, self.config)
        for attribute, setting in (("src_lang", "source_language"), ("tgt_lang", "target_language")):
            code = getattr(self.config, setting)
            if code:
                _check_language(tokenizer, attribute, setting, code)
                setattr(tokenizer, attribute, code)
        self.tokenizer = tokenizer
        return tokenizer

    def load_model(self, source: str) -> PreTrainedModel:
        """Load the encoder–decoder, configured to generate."""
        model = load_pretrained(AutoModelForSeq2SeqLM, source, self.config)
        tokenizer = self.load_processor(source)
        lengths = {"max_length": self.config.max_length, "max_target_length": self.config.max_target_length}
        check_sizes(model, tokenizer, source, **lengths)
        if self.config.target_language:
            _set_target_language(model, tokenizer, self.config.target_language)
        configure_generation(model, tokenizer, source, self.config)
        return model

    def encode(self, rows: Dataset, processor: Any, *, train: bool) -> Dataset:
        """Tokenize; `labels` are the target's tokens up to its end token, `truncated` marks rows that were too long."""
        prefix, max_length, max_target_length = (
            self.config.source_prefix,
            self.config.max_length,
            self.config.max_target_length,
        )

        def encode_batch(batch: dict[str, list[str]]) -> dict[str, Any]:
            texts = [prefix + text for text in batch["source"]]
            sources = processor(texts, truncation=True, max_length=max_length)
            targets = processor(text_target=batch["target"], truncation=True, max_length=max_target_length)
            labels = [_with_end(ids, processor.eos_token_id, max_target_length) for ids in targets["input_ids"]]
            cut_sources = are_truncated(processor, sources, max_length, texts)
            cut_targets = are_truncated(_of_targets(processor), targets, max_target_length, batch["target"])
            return {
                "input_ids": sources["input_ids"],
                "attention_mask": sources["attention_mask"],
                "labels": labels,
                "length": [len(ids) + len(target) for ids, target in zip(sources["input_ids"], labels, strict=True)],
                "truncated": [source or target for source, target in zip(cut_sources, cut_targets, strict=True)],
            }

        return rows.map(encode_batch, batched=True, remove_columns=rows.column_names, desc="tokenize")

    def collator(self, processor: Any, model: PreTrainedModel) -> Any:
        """Pad to the longest row of the batch, and add the decoder's inputs, which label smoothing needs."""
        return DataCollatorForSeq2Seq(processor, model=model)

    def loss(self) -> Loss | None:
        """Return the loss for label smoothing; the model's own has none."""
        smoothing = self.config.label_smoothing_factor
        return TokenLoss(smoothing) if smoothing else None

    def evaluate(self, outputs: Any, targets: Any, rows: Dataset, features: Dataset) -> Evaluation:
        """Score generated token ids, int (rows, tokens); a mistake's loss is 1 minus its row's score."""
        predicted, expected = decode_texts(outputs, self.tokenizer), [text.strip() for text in rows["target"]]
        metrics, scores = self.score(predicted, expected)
        return Evaluation(metrics=metrics, mistakes=worst_mistakes(rows["source"], expected, predicted, 1 - scores))


def _check_language(tokenizer: Any, attribute: str, setting: str, code: str) -> None:
    if not hasattr(tokenizer, attribute):
        raise TuneportError(
            f"{setting} is {code!r} and {type(tokenizer).__name__} marks no languages", f"leave out {setting}"
        )
    if tokenizer.convert_tokens_to_ids(code) in (None, tokenizer.unk_token_id):
        known = [token for token in tokenizer.all_special_tokens if "_" in token]
        raise TuneportError(f"{setting} = {code!r} is not in the tokenizer", f"use one of {', '.join(known)[:200]}")


def _set_target_language(model: PreTrainedModel, tokenizer: Any, code: str) -> None:
    """Make the model generate the language of a code.

    Where targets begin with the code (mBART-50, NLLB), it has to be the first token that is generated; elsewhere
    (mBART) it is the token that the decoder starts with.
    """
    token = tokenizer.convert_tokens_to_ids(code)
    if tokenizer(text_target="a")["input_ids"][0] == token:
        model.generation_config.forced_bos_token_id = token
    else:
        model.generation_config.decoder_start_token_id = model.config.decoder_start_token_id = token


def _with_end(ids: list[int], end: int, limit: int) -> list[int]:
    """Append the end token where the tokenizer does not: a model trained without it never stops."""
    return ids if end in ids[-2:] else [*ids[: limit - 1], end]


def _of_targets(tokenizer: Any) -> Callable[..., Any]:
    """Return a function that tokenizes targets, with the arguments of a tokenizer."""
    return lambda text, **options: tokenizer(text_target=text, **options)
