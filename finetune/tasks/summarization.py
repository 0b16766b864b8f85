"""Summarization, scored by ROUGE-1, ROUGE-2 and ROUGE-L."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from tuneport.metrics.text import rouge_each

from .seq2seq import Seq2SeqTask


class Task(Seq2SeqTask):
    """Rows of texts in `source` and their summaries in `target`."""

    def score(
        self, predicted: Sequence[str], expected: Sequence[str]
    ) -> tuple[dict[str, float], npt.NDArray[np.float64]]:
        """Compute the mean F-measure of each ROUGE, and the ROUGE-L of each row."""
        scores = rouge_each(predicted, expected)
        return {name: float(values.mean()) for name, values in scores.items()}, scores["rougeL"]
