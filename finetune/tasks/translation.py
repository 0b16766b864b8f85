"""Translation, scored by BLEU and chrF."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from tuneport.metrics.text import bleu, chrf, chrf_each

from .seq2seq import Seq2SeqTask


class Task(Seq2SeqTask):
    """Rows of `source` and `target` in two languages."""

    def score(
        self, predicted: Sequence[str], expected: Sequence[str]
    ) -> tuple[dict[str, float], npt.NDArray[np.float64]]:
        """Compute BLEU and chrF of the corpus, and the chrF of each row."""
        metrics = {"bleu": bleu(predicted, expected), "chrf": chrf(predicted, expected)}
        return metrics, chrf_each(predicted, expected)
