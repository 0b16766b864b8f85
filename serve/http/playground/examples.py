"""Examples for the playground, from the golden cases of the artifact."""

import json
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from tuneport.schema.loading import load_golden

MAX_EXAMPLES = 6
MAX_EXAMPLE_CHARS = 1500
MAX_AUDIO_CHARS = 400_000
"""Of a recording in base64: about ten seconds."""
MAX_AUDIO_CHARS_OF_ALL = 2 * MAX_AUDIO_CHARS
"""Of all recordings: the page contains them."""
OF_THE_DATA = "mixed"
"""Batch of the golden cases that are rows of the labelled data; other recordings are tones, noise and silence."""


@lru_cache(maxsize=16)
def golden_examples(folder: Path, fields: tuple[str, ...]) -> list[dict[str, Any]]:
    """Return golden inputs that the form can hold, as `POST /predict` takes them: different ones, not very long.

    They are texts by field, a chat of one message, or a recording.
    """
    examples: dict[str, dict[str, Any]] = {}
    for case in load_golden(folder):
        given = {"text": case.input} if isinstance(case.input, str) else case.input
        if isinstance(given, dict):
            example = {name: value for name, value in given.items() if name != "answer"}
            if _is_recording(example, case.batch) or _is_short(_texts(example, fields)):
                examples.setdefault(json.dumps(example, sort_keys=True), example)
    return list(_within_limits(examples.values()))


def _within_limits(examples: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield the first examples, without recordings for which those before them leave no room."""
    audio_chars_left = MAX_AUDIO_CHARS_OF_ALL
    left = MAX_EXAMPLES
    for example in examples:
        audio_chars = len(example["audio"]) if example.keys() == {"audio"} else 0
        if left and audio_chars <= audio_chars_left:
            left, audio_chars_left = left - 1, audio_chars_left - audio_chars
            yield example


def _is_recording(example: dict[str, Any], batch: str) -> bool:
    return example.keys() == {"audio"} and batch == OF_THE_DATA and len(example["audio"]) <= MAX_AUDIO_CHARS


def _texts(example: dict[str, Any], fields: tuple[str, ...]) -> list[Any]:
    """Return the texts that the form would show; none if it has no place for them."""
    if example.keys() == {"messages"}:
        messages = example["messages"]
        return [messages[0]["content"]] if [each["role"] for each in messages] == ["user"] else []
    return list(example.values()) if example.keys() <= set(fields) else []


def _is_short(texts: list[Any]) -> bool:
    if not all(isinstance(text, str) for text in texts):
        return False
    return any(text.strip() for text in texts) and sum(map(len, texts)) <= MAX_EXAMPLE_CHARS
