"""Summarization at the gate: the mean F-measure of ROUGE-L, over words of any script."""

from typing import ClassVar

import numpy as np
from rouge_score.rouge_scorer import RougeScorer

from export.tasks.generative import WritingTask
from finetune.tasks.summarization import AnyScript


class Task(WritingTask):
    """Rows of `source` and `target`."""

    metric: ClassVar[str] = "rougeL"

    def score_texts(self, texts: list[str], targets: list[str]) -> float:
        """Return ROUGE-L from 0 to 1."""
        scorer = RougeScorer(["rougeL"], tokenizer=AnyScript())
        pairs = zip(texts, targets, strict=True)
        return float(np.mean([scorer.score(right, text)["rougeL"].fmeasure for text, right in pairs]))
