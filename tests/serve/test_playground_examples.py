"""The playground's examples: those golden inputs that its form can hold."""

from pathlib import Path
from typing import Any

from kit.data import write_rows

from tuneport.schema.artifact import GOLDEN
from tuneport.stages.serve.http.playground.examples import (
    MAX_AUDIO_CHARS,
    MAX_AUDIO_CHARS_OF_ALL,
    MAX_EXAMPLE_CHARS,
    golden_examples,
)

OUTPUTS = [{"x": [0.0]}]


def write_golden(folder: Path, *inputs: Any, batch: str = "mixed") -> Path:
    write_rows(folder / GOLDEN, [{"batch": batch, "input": each, "outputs": OUTPUTS} for each in inputs])
    return folder


def message(content: str, role: str = "user") -> dict[str, str]:
    return {"role": role, "content": content}


def test_texts_that_are_blank_long_or_repeated_are_left_out(tmp_path: Path) -> None:
    folder = write_golden(tmp_path, "one", "", " \n", "one", "x" * (MAX_EXAMPLE_CHARS + 1), *map(str, range(9)))
    assert golden_examples(folder, ("text",)) == [{"text": each} for each in ("one", "0", "1", "2", "3", "4")]


def test_inputs_that_the_form_has_no_fields_for_are_left_out(tmp_path: Path) -> None:
    pair, words = {"text": "a", "text_pair": "b"}, {"tokens": ["a", "b"]}
    folder = write_golden(tmp_path, pair, words, {"text": "c", "text_pair": ""})
    assert golden_examples(folder, ("text",)) == []
    (tmp_path / "pairs").mkdir()
    assert golden_examples(write_golden(tmp_path / "pairs", pair, words), ("text", "text_pair")) == [pair]


def test_chats_of_one_message_and_prompts_come_without_their_reference_answers(tmp_path: Path) -> None:
    asked = [message("How?")]
    folder = write_golden(
        tmp_path, {"messages": asked, "answer": "So."}, {"text": "Once", "answer": " upon"}, {"messages": asked},
        {"messages": [message("How?"), message("So.", "assistant"), message("Why?")]}, {"messages": [message(" ")]},
    )  # fmt: skip
    assert golden_examples(folder, ("text",)) == [{"messages": asked}, {"text": "Once"}]


def test_recordings_are_those_of_the_data(tmp_path: Path) -> None:
    real = {"audio": "UklGRg=="}
    folder = write_golden(tmp_path, real, {"audio": "A" * (MAX_AUDIO_CHARS + 1)})
    assert golden_examples(folder, ("json",)) == [real]
    (tmp_path / "tones").mkdir()
    assert golden_examples(write_golden(tmp_path / "tones", real, batch="tone"), ("json",)) == []


def test_recordings_are_limited_together(tmp_path: Path) -> None:
    recordings = [{"audio": letter * (MAX_AUDIO_CHARS - 10)} for letter in "ABC"]
    small = {"audio": "UklGRg=="}
    folder = write_golden(tmp_path, *recordings, small, {"text": "a"})
    assert golden_examples(folder, ("text",)) == [*recordings[:2], small, {"text": "a"}]
    assert 2 * MAX_AUDIO_CHARS == MAX_AUDIO_CHARS_OF_ALL
