"""Reads and checks the answers of question answering: spans of a context, in the formats of SQuAD."""

from collections.abc import Iterator
from typing import Any

from tuneport.data.rows import preview

FORMAT = '{"text": […], "answer_start": […]} or a list of {"text", "answer_start"}'


def read_answers(answers: Any) -> Iterator[tuple[str, int]]:
    """Yield the text and the first character of each right answer of a row, in either format.

    Raises TypeError or KeyError for another format, ValueError for lists of different lengths.
    """
    if isinstance(answers, dict):
        if not all(isinstance(answers[name], list) for name in ("text", "answer_start")):
            raise TypeError("lists are expected")
        yield from zip(answers["text"], answers["answer_start"], strict=True)
    else:
        yield from ((answer["text"], answer["answer_start"]) for answer in answers)


def find_answer_problems(row: dict[str, Any]) -> Iterator[str]:
    """Yield the problems of a row's answers."""
    try:
        answers = list(read_answers(row["answers"]))
    except (TypeError, KeyError):
        yield f"answers is {preview(row['answers'])}, and {FORMAT} is expected"
    except ValueError:
        counts = [len(row["answers"][name]) for name in ("text", "answer_start")]
        yield f"answers has {counts[0]} of text and {counts[1]} of answer_start"
    else:
        for text, start in answers:
            if not isinstance(text, str) or not text.strip():
                yield f"an answer's text is {preview(text)}"
            elif isinstance(start, bool) or not isinstance(start, int):
                yield f"answer_start is {preview(start)}, and a whole number is expected"
            elif isinstance(row["context"], str) and not _is_at(row["context"], text, start):
                yield _describe_position(row["context"], text, start)


def _is_at(context: str, text: str, start: int) -> bool:
    return start >= 0 and context.startswith(text, start)


def _describe_position(context: str, text: str, start: int) -> str:
    """Describe an answer that is not at its `answer_start`: what is there, and where the answer is."""
    actual = repr(context[start : start + len(text)][:60]) if 0 <= start < len(context) else "nothing"
    position = context.find(text)
    correction = f"it begins at {position}" if position >= 0 else "the context does not contain it"
    return f"the answer {preview(text)} has answer_start = {start}, where the context has {actual}; {correction}"
