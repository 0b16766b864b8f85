"""What a runtime task makes of a model's outputs, on outputs that are chosen by hand."""

from pathlib import Path

import numpy as np
import pytest
from kit.encoders import LABELS

from tuneport.errors import InputError
from tuneport.runtime.predictor import Predictor
from tuneport.runtime.tasks import question_answering, text_classification
from tuneport.runtime.tokenizer import TextTokenizer
from tuneport.schema.artifact import Processing


@pytest.mark.parametrize(
    ("problem_type", "expected"),
    [("single_label_classification", [0.25, 0.75]), ("multi_label_classification", [0.5, 0.75])],
)
def test_logits_are_divided_by_the_temperature(tiny_artifact: Path, problem_type: str, expected: list[float]) -> None:
    processing = Processing.model_validate(
        {"max_length": 64, "pad_token_id": 0, "problem_type": problem_type, "temperature": 2.0}
    )
    tokenizer = TextTokenizer(tiny_artifact / "tokenizer.json", processing)
    task = text_classification.Task(("no", "yes"), processing, tokenizer)
    logits = np.array([0.0, 2 * np.log(3.0)], np.float32)  # at temperature 1 the second label's odds would be 9 to 1
    np.testing.assert_allclose(task.probabilities(logits), expected, rtol=1e-6)


@pytest.mark.parametrize(("sure_window", "expected"), [(0, "team won"), (1, "team won"), (None, "")])
def test_no_answer_needs_the_agreement_of_every_window(
    tiny_artifact: Path, sure_window: int | None, expected: str
) -> None:
    """A window without the answer may score "no answer" high; the window where it is lowest counts."""
    processing = Processing(max_length=12, pad_token_id=0, doc_stride=2, has_unanswerable=True)
    tokenizer = TextTokenizer(tiny_artifact / "tokenizer.json", processing)
    task = question_answering.Task((), processing, tokenizer)
    parsed_input = task.parse_input({"question": "the game", "context": "the team won the game " * 4})
    (rows,) = task.encode([parsed_input])
    assert len(rows) > 2
    outputs = []
    for window, row in enumerate(rows):
        starts, ends = np.zeros((2, len(row)), np.float32)
        starts[0] = ends[0] = 1.0 if window == sure_window else 9.0  # "no answer"
        outputs.append({"start_logits": starts, "end_logits": ends})
    encoding = rows[0].encoding
    assert encoding is not None
    first = encoding.sequence_ids.index(1)
    outputs[0]["start_logits"][first + 1] = outputs[0]["end_logits"][first + 2] = 5.0
    answer = task.decode(parsed_input, rows, outputs, task.parameters())
    assert answer["answer"] == expected


def test_a_string_is_no_list_of_inputs_and_any_iterable_is_one(tiny_artifact: Path) -> None:
    predictor = Predictor(tiny_artifact, "fp32")
    for value in ("bank", b"bank", {"text": "bank"}, None, 7):
        with pytest.raises(InputError, match="give a list of inputs"):
            predictor.predict(value)  # type: ignore[arg-type]
    (prediction,) = predictor.predict(each for each in ("bank",))
    assert prediction["label"] in LABELS


def test_a_stream_of_inputs_takes_parameters(tiny_artifact: Path) -> None:
    predictor = Predictor(tiny_artifact, "fp32")
    predictions = list(predictor.predict_stream(["bank"] * 300, {"top_k": 2}))
    assert [len(each) for each in predictions] == [2] * 300
