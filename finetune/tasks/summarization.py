"""Summarization: ROUGE-1, ROUGE-2 and ROUGE-L by rouge_score."""

import re
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import numpy.typing as npt
from rouge_score.rouge_scorer import RougeScorer
from rouge_score.tokenizers import DefaultTokenizer, Tokenizer

from finetune.tasks.seq2seq import Seq2SeqTask

METRICS = ("rouge1", "rouge2", "rougeL")


class Task(Seq2SeqTask):
    """Scores summaries."""

    best_metric: ClassVar[str] = "rougeL"

    def score(
        self, predicted: Sequence[str], expected: Sequence[str]
    ) -> tuple[dict[str, float], npt.NDArray[np.float64]]:
        """Return the rows' mean F-measure of each ROUGE, 0 to 1, and each row's ROUGE-L."""
        scorer = RougeScorer(METRICS, tokenizer=AnyScript())
        scores = [scorer.score(right, text) for text, right in zip(predicted, expected, strict=True)]
        metrics = {name: float(np.mean([score[name].fmeasure for score in scores])) for name in METRICS}
        return metrics, np.array([score["rougeL"].fmeasure for score in scores])


class AnyScript(Tokenizer):
    """rouge_score's own words and stems for ASCII; other words, which it would tear apart or lose, as they are."""

    def __init__(self) -> None:
        """Use the Porter stemmer, as is usual."""
        self._english = DefaultTokenizer(use_stemmer=True)

    def tokenize(self, text: str) -> list[str]:
        """Split a text into lower-case words."""
        words = re.findall(r"[^\W_]+", text.lower())
        return [piece for word in words for piece in (self._english.tokenize(word) if word.isascii() else [word])]
