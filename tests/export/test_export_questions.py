"""Question answering of every family, exported without a run: answers are the best spans of torch's logits."""

from pathlib import Path

import pytest
import torch
import transformers
from kit.untrained import MAX_LENGTH, export_untrained, question_row, text
from transformers import AutoTokenizer

from tuneport.errors import InputError
from tuneport.runtime.predictor import Predictor


@pytest.mark.parametrize("family", ["bert", "roberta", "deberta-v2", "distilbert", "electra"])
def test_answers_are_the_best_spans_of_torch_s_logits(family: str, tmp_path: Path) -> None:
    checkpoint, artifact = export_untrained(tmp_path, "question-answering", family)
    predictor = Predictor(artifact)
    for row in (question_row() for _ in range(6)):
        question = {"question": row["question"], "context": row["context"]}
        (answer,) = predictor.predict([question])
        assert row["context"][answer["start"] : answer["end"]] == answer["answer"]
        sums = span_sums(checkpoint, **question)
        best = max(sums.values())
        assert sums[answer["start"], answer["end"]] == pytest.approx(best, abs=1e-4)
        assert 0 < answer["score"] < 1


def span_sums(checkpoint: Path, question: str, context: str) -> dict[tuple[int, int], float]:
    """Return the sum of torch's two logits for the characters of every span of every window."""
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    model = transformers.AutoModelForQuestionAnswering.from_pretrained(checkpoint).eval()
    windows = tokenizer(
        question, context, truncation="only_second", max_length=MAX_LENGTH, stride=MAX_LENGTH // 4,
        return_overflowing_tokens=True, return_offsets_mapping=True, return_token_type_ids=None,
    )  # fmt: skip
    sums: dict[tuple[int, int], float] = {}
    for i, ids in enumerate(windows["input_ids"]):
        feeds = {"input_ids": torch.tensor([ids])}
        if "token_type_ids" in windows and model.config.model_type in ("bert", "electra"):
            feeds["token_type_ids"] = torch.tensor([windows["token_type_ids"][i]])
        with torch.inference_mode():
            outputs = model(**feeds)
        offsets = windows["offset_mapping"][i]
        inside = [at for at, of in enumerate(windows.sequence_ids(i)) if of == 1 and offsets[at][1] > offsets[at][0]]
        for first in inside:
            for last in inside[inside.index(first) : inside.index(first) + 30]:
                start, end = offsets[first][0], offsets[last][1]
                start += len(context[start:end]) - len(context[start:end].lstrip())
                total = float(outputs.start_logits[0][first] + outputs.end_logits[0][last])
                sums[start, end] = max(total, sums.get((start, end), -1e9))
    return sums


def test_a_question_that_fills_the_window_is_refused_with_a_remedy(tmp_path: Path) -> None:
    _, artifact = export_untrained(tmp_path, "question-answering", "xlnet")
    predictor = Predictor(artifact)
    with pytest.raises(InputError, match=r"leaves 0 tokens.*shorten it"):
        predictor.predict([{"question": text(60), "context": "paris"}])
    assert predictor.predict([{"question": "who", "context": ""}])[0]["answer"] == ""
    with pytest.raises(InputError, match='"question" and "context"'):
        predictor.predict(["who"])
