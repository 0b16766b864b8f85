"""Metrics of answers to questions: exact match and F1 of words, as SQuAD defines them.

In scripts without spaces each character is a word, and punctuation is that of Unicode, as in MLQA (Lewis et al., "MLQA:
Evaluating Cross-lingual Extractive Question Answering", 2020) and CMRC 2018.

Rajpurkar et al., "SQuAD: 100,000+ Questions for Machine Comprehension of Text" (2016); for unanswerable questions
Rajpurkar et al., "Know What You Don't Know" (2018).
"""

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from tuneport.scripts import separate_characters

ARTICLES = re.compile(r"\b(?:a|an|the)\b")
PUNCTUATION = dict.fromkeys(
    [*map(ord, string.punctuation), *(c for c in range(0x20000) if unicodedata.category(chr(c)).startswith("P"))]
)
Scores = npt.NDArray[np.float64]
"""A score for each question, (rows,)."""


def exact_match_each(predicted: Sequence[str], expected: Sequence[Sequence[str]]) -> Scores:
    """Compute the exact match of each prediction with its right answers; a corpus has their mean."""
    return np.array([exact_match(text, answers) for text, answers in zip(predicted, expected, strict=True)])


def answer_f1_each(predicted: Sequence[str], expected: Sequence[Sequence[str]]) -> Scores:
    """Compute the F1 of each prediction with its right answers; a corpus has their mean."""
    return np.array([answer_f1(text, answers) for text, answers in zip(predicted, expected, strict=True)])


def answer_metrics(exact: Scores, f1: Scores, is_answerable: npt.NDArray[np.bool_]) -> dict[str, float]:
    """Compute the metrics of a corpus; where it has questions of both kinds, also for each kind."""
    metrics = {"exact_match": float(exact.mean()), "f1": float(f1.mean())}
    if is_answerable.any() and not is_answerable.all():
        metrics["exact_match_has_answer"] = float(exact[is_answerable].mean())
        metrics["f1_has_answer"] = float(f1[is_answerable].mean())
        metrics["exact_match_no_answer"] = float(exact[~is_answerable].mean())
    return metrics


def exact_match(predicted: str, answers: Sequence[str]) -> float:
    """Return 1 if the prediction is one of the right answers; an unanswerable question has the answer ""."""
    return float(normalize(predicted) in {normalize(answer) for answer in answers})


def answer_f1(predicted: str, answers: Sequence[str]) -> float:
    """Return the best F1 of the prediction's words with those of a right answer."""
    return max(_word_f1(normalize(predicted).split(), normalize(answer).split()) for answer in answers)


def normalize(answer: str) -> str:
    """Remove case, punctuation, English articles and extra white space; separate characters without spaces."""
    return " ".join(separate_characters(ARTICLES.sub(" ", answer.lower().translate(PUNCTUATION))).split())


def _word_f1(predicted: list[str], expected: list[str]) -> float:
    if not predicted or not expected:
        return float(predicted == expected)
    common = (Counter(predicted) & Counter(expected)).total()
    return 2 * common / (len(predicted) + len(expected))
