"""The metrics that each task's evaluation gives, by name: a setting that names another is refused before training."""

from export.files import TuneportError
from finetune.config import FinetuneConfig
from finetune.tasks import Task

LOWER_IS_BETTER = {"loss", "mse", "mae", "hamming_loss", "wer", "cer", "perplexity"}
CLASSES = ("accuracy", "f1_macro", "f1_weighted", "matthews")
SEVERAL_CLASSES = ("accuracy", "f1_macro", "f1_micro", "f1_weighted", "hamming_loss")
METRICS = {
    "regression": ("mse", "mae", "pearson", "spearman"),
    "token-classification": ("precision", "recall", "f1", "accuracy"),
    "question-answering": ("exact_match", "f1"),
    "translation": ("bleu", "chrf"),
    "summarization": ("rouge1", "rouge2", "rougeL"),
    "automatic-speech-recognition": ("wer", "cer"),
    "text-generation": ("perplexity", "token_accuracy"),
}
"""Task → what its every evaluation gives; those of text classification depend on its data."""


def metric_of(config: FinetuneConfig, task: Task) -> str:
    """Return the metric that tells checkpoints apart: the settings', or the task's own.

    Raises TuneportError for one that the task's evaluation does not give.
    """
    name = config.metric_for_best_model or task.best_metric
    classes = SEVERAL_CLASSES if getattr(task, "multi_label", False) else CLASSES
    known = ("loss", *METRICS.get(config.task, classes))
    if name not in known:
        problem = f"metric_for_best_model = {name!r} is no metric of this task and data"
        raise TuneportError(problem, f"choose among {', '.join(known)}")
    return name


def greater_is_better(metric: str) -> bool:
    """Tell whether more of a metric is better."""
    return metric not in LOWER_IS_BETTER
