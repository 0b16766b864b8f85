"""Translation: BLEU and chrF by sacrebleu."""

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import sacrebleu

from finetune.tasks.seq2seq import Seq2SeqTask


class Task(Seq2SeqTask):
    """Scores translations."""

    best_metric: ClassVar[str] = "bleu"

    def score(
        self, predicted: Sequence[str], expected: Sequence[str]
    ) -> tuple[dict[str, float], npt.NDArray[np.float64]]:
        """Return BLEU (tokens as in mteval 13a) and chrF of the corpus, 0 to 100, and each row's chrF from 0 to 1."""
        metrics = {
            "bleu": float(sacrebleu.corpus_bleu(predicted, [expected]).score),
            "chrf": float(sacrebleu.corpus_chrf(predicted, [expected]).score),
        }
        pairs = zip(predicted, expected, strict=True)
        return metrics, np.array([sacrebleu.sentence_chrf(text, [right]).score / 100 for text, right in pairs])
