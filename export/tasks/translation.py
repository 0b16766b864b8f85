"""Export translation: the metric is chrF of the corpus."""

from tuneport.metrics.text import chrf

from .generative import TargetTextTask


class Task(TargetTextTask):
    """Rows of `source` and `target`."""

    def score_texts(self, texts: list[str], targets: list[str]) -> float:
        """Return chrF, from 0 to 1."""
        return chrf(texts, targets)
