"""Translation at the gate: chrF (Popović, 2015) of the corpus, by sacrebleu, as a share of 1."""

from typing import ClassVar

import sacrebleu

from export.tasks.generative import WritingTask


class Task(WritingTask):
    """Rows of `source` and `target`."""

    metric: ClassVar[str] = "chrf"

    def score_texts(self, texts: list[str], targets: list[str]) -> float:
        """Return chrF from 0 to 1."""
        return float(sacrebleu.corpus_chrf(texts, [targets]).score) / 100
