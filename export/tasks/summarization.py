"""Export summarization: the metric is the mean F-measure of ROUGE-L."""

from tuneport.metrics.text import rouge_each

from .generative import TargetTextTask


class Task(TargetTextTask):
    """Rows of `source` and `target`."""

    def score_texts(self, texts: list[str], targets: list[str]) -> float:
        """Return ROUGE-L, from 0 to 1."""
        return float(rouge_each(texts, targets)["rougeL"].mean())
