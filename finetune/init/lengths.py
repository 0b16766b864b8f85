"""Measures how many tokens the rows of train have, and suggests the lengths of inputs and targets."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import Dataset
from transformers import AutoConfig

from tuneport.modeling.positions import position_limit
from tuneport.tasks import TaskSpec

from ..config import FinetuneConfig
from ..loading import as_checkpoint_error
from .columns import first_rows

COVERED = 99.0
"""Per cent of the inputs that fit the suggested length."""
MULTIPLE = 8
MIN_LENGTH = 16
MAX_WINDOW = 384
"""Longest window of question answering that is suggested; longer contexts are read in several."""
MAX_LENGTH = 512
"""Longest length that is suggested: time and memory grow with it."""


@dataclass(frozen=True)
class Lengths:
    """Tokens of the inputs or targets of train, special tokens included."""

    setting: str
    """The setting that the suggestion is for."""
    median: int
    covered: int
    """The length that `COVERED` per cent do not exceed."""
    longest: int
    suggested: int

    def describe(self) -> str:
        """Describe the distribution in a phrase."""
        return f"tokens: median {self.median}, {COVERED:g} % have at most {self.covered}, the longest {self.longest}"


def suggest_lengths(
    spec: TaskSpec, rows: Dataset, processor: Any, source: str, config: FinetuneConfig
) -> list[Lengths]:
    """Suggest max_length and, for tasks that generate a target, max_target_length."""
    sample = first_rows(rows)
    tokenizer = getattr(processor, "tokenizer", processor)
    limit = min(_limit(source, config) or MAX_LENGTH, MAX_WINDOW if "doc_stride" in spec.settings else MAX_LENGTH)
    found = []
    if not spec.has_local_paths:
        least = MIN_LENGTH
        if "doc_stride" in spec.settings:  # a question leaves a window twice what neighbouring windows share
            questions = [row["question"] for row in sample]
            longest = max(len(ids) for ids in tokenizer(questions, verbose=False)["input_ids"])
            least = longest + tokenizer.num_special_tokens_to_add(pair=True) + 2 * config.doc_stride
        found.append(_distribution("max_length", _count_inputs(sample, tokenizer, config.source_prefix), least, limit))
    if "max_target_length" in spec.settings:
        counts = [len(ids) for ids in tokenizer([row["target"] for row in sample], verbose=False)["input_ids"]]
        found.append(_distribution("max_target_length", counts, MIN_LENGTH, limit))
    return found


def _count_inputs(sample: Sequence[Mapping[str, Any]], tokenizer: Any, prefix: str) -> list[int]:
    """Count the tokens of each row's input."""
    first = sample[0]
    options: dict[str, Any] = {"verbose": False}
    if "tokens" in first:
        inputs: list[Any] = [[row["tokens"] for row in sample]]
        options["is_split_into_words"] = True
    elif "question" in first:
        inputs = [[row["question"] for row in sample], [row["context"] for row in sample]]
    elif "source" in first:
        inputs = [[prefix + row["source"] for row in sample]]
    elif "messages" in first:
        inputs = [[_render(row["messages"], tokenizer) for row in sample]]
    else:
        inputs = [[row[name] for row in sample] for name in ("text", "text_pair") if name in first]
    return [len(ids) for ids in tokenizer(*inputs, **options)["input_ids"]]


def _render(messages: Any, tokenizer: Any) -> str:
    """Write a chat as the tokenizer's template does, or roughly without one."""
    if tokenizer.chat_template:
        return str(tokenizer.apply_chat_template(messages, tokenize=False))
    return json.dumps(messages, ensure_ascii=False)


def _distribution(setting: str, counts: Iterable[int], least: int, limit: int) -> Lengths:
    lengths = np.fromiter(counts, np.int64)
    covered = int(np.ceil(np.percentile(lengths, COVERED)))
    rounded = -(-max(covered, least) // MULTIPLE) * MULTIPLE
    suggested = max(MULTIPLE, min(rounded, limit))
    return Lengths(setting, int(np.median(lengths)), covered, int(lengths.max()), suggested)


def _limit(source: str, config: FinetuneConfig) -> int | None:
    """Return how many tokens the model has positions for; None for relative positions."""
    with as_checkpoint_error(source):
        return position_limit(AutoConfig.from_pretrained(source, trust_remote_code=config.trust_remote_code))
