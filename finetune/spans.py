"""Answers as spans of a context: reading them, their tokens in a window, SQuAD's scores.

Scores after Rajpurkar et al., "SQuAD: 100,000+ Questions for Machine Comprehension of Text" (2016); unanswerable
questions after "Know What You Don't Know" (2018).
"""

import re
import string
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from finetune.data import short
from serve.spans import OUTSIDE

ARTICLES = re.compile(r"\b(?:a|an|the)\b")
SHAPE = '{"text": […], "answer_start": […]} or a list of {"text", "answer_start"}'
PUNCTUATION = str.maketrans("", "", string.punctuation)


def read_answers(answers: Any) -> Iterator[tuple[str, int]]:
    """Go through a row's right answers, in either shape: text and first character.

    Raises TypeError or KeyError for another shape, ValueError for lists of different lengths.
    """
    if isinstance(answers, dict):
        if not all(isinstance(answers[name], list) for name in ("text", "answer_start")):
            raise TypeError("lists are expected")
        yield from zip(answers["text"], answers["answer_start"], strict=True)
    else:
        yield from ((each["text"], each["answer_start"]) for each in answers)


def wrong_answers(row: dict[str, Any]) -> Iterator[str]:
    """Say what is wrong with a row's answers."""
    try:
        answers = list(read_answers(row["answers"]))
    except (TypeError, KeyError):
        yield f"answers is {short(row['answers'])}, and {SHAPE} is expected"
    except ValueError:
        counts = [len(row["answers"][name]) for name in ("text", "answer_start")]
        yield f"answers has {counts[0]} of text and {counts[1]} of answer_start"
    else:
        for text, start in answers:
            if not isinstance(text, str) or not text.strip():
                yield f"an answer's text is {short(text)}"
            elif isinstance(start, bool) or not isinstance(start, int):
                yield f"answer_start is {short(start)}, and a whole number is expected"
            elif isinstance(row["context"], str) and not _stands_at(row["context"], text, start):
                yield _misplaced(row["context"], text, start)


def _stands_at(context: str, text: str, start: int) -> bool:
    return start >= 0 and context.startswith(text, start)


def _misplaced(context: str, text: str, start: int) -> str:
    there = repr(context[start : start + len(text)][:60]) if 0 <= start < len(context) else "nothing"
    found = context.find(text)
    elsewhere = f"it begins at {found}" if found >= 0 else "the context does not hold it"
    return f"the answer {short(text)} is said to begin at {start}, where {there} stands; {elsewhere}"


def token_span(offsets: Sequence[tuple[int, int]], start: int, end: int) -> tuple[int, int] | None:
    """Find the first and last token of characters `start` to `end`; None where the window does not hold them all."""
    inside = [i for i, (left, right) in enumerate(offsets) if left != OUTSIDE and right > start and left < end]
    context = [i for i, (left, _) in enumerate(offsets) if left != OUTSIDE]
    if not inside or offsets[context[0]][0] > start or offsets[context[-1]][1] < end:
        return None
    return inside[0], inside[-1]


def normalize(answer: str) -> str:
    """Drop case, punctuation, English articles and superfluous blanks."""
    return " ".join(ARTICLES.sub(" ", answer.lower().translate(PUNCTUATION)).split())


def exact_match(predicted: str, answers: Iterable[str]) -> float:
    """Return 1 if the prediction is one of the right answers; an empty text is the answer to the unanswerable."""
    return float(normalize(predicted) in {normalize(answer) for answer in answers})


def answer_f1(predicted: str, answers: Iterable[str]) -> float:
    """Return the best F1 of the prediction's words against those of a right answer."""
    return max(_word_f1(normalize(predicted).split(), normalize(answer).split()) for answer in answers)


def _word_f1(predicted: list[str], expected: list[str]) -> float:
    if not predicted or not expected:
        return float(predicted == expected)
    common = (Counter(predicted) & Counter(expected)).total()
    return 2 * common / (len(predicted) + len(expected))
