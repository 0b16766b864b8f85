"""Question answering at the gate: SQuAD's F1 of words."""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from export.checkpoint import Checkpoint
from export.manifest import Processing
from export.tasks.strides import stride_of
from finetune.spans import answer_f1, read_answers, wrong_answers
from serve.batcher import Result
from serve.tasks import Task as ServingTask
from serve.tokenizer import Row


class Task:
    """Rows of `context`, `question` and `answers`."""

    auto_model: ClassVar = "AutoModelForQuestionAnswering"
    outputs: ClassVar = ("start_logits", "end_logits")
    metric: ClassVar = "f1"
    lower_is_better: ClassVar = False
    columns: tuple[str, ...] = ("context", "question", "answers")
    example: Any = {"question": "What?", "context": "Yes."}  # noqa: RUF012 -- nobody changes it

    def __init__(self, checkpoint: Checkpoint) -> None:
        """Read whether "no answer" is one."""
        self._checkpoint = checkpoint

    def processing(self) -> Processing:
        """Say that long contexts go over in windows."""
        tokenizer = self._checkpoint.tokenizer
        return Processing(
            max_length=self._checkpoint.max_length,
            pad_token_id=tokenizer.pad_token_id or 0,
            pad_token_type_id=tokenizer.pad_token_type_id,
            padding_side=tokenizer.padding_side,
            accepts_pairs=True,
            doc_stride=stride_of(self._checkpoint),
            has_unanswerable=bool(getattr(self._checkpoint.config, "has_unanswerable", False)),
        )

    def read(self, row: dict[str, Any]) -> tuple[Any, Any]:
        """Return question and context, and the texts that are right."""
        if wrong := next(wrong_answers(row), None):
            raise ValueError(wrong)
        texts = [text for text, _ in read_answers(row["answers"])]
        return {"question": row["question"], "context": row["context"]}, texts or [""]

    def with_text(self, text: str, like: Any) -> Any:
        """Ask the question of `like` about a text."""
        return {**like, "context": text}

    def for_torch(self, given: Sequence[tuple[str, str]]) -> dict[str, Any]:
        """Encode contexts in overlapping windows."""
        return {
            "text": [question for question, _ in given],
            "text_pair": [context for _, context in given],
            "truncation": "only_second",
            "stride": stride_of(self._checkpoint),
            "return_overflowing_tokens": True,
        }

    def score(
        self,
        serving: ServingTask,
        given: Sequence[tuple[str, str]],
        windows: Sequence[Sequence[Row]],
        results: Sequence[Sequence[Result]],
        targets: Sequence[list[str]],
    ) -> float:
        """Return the mean F1 of words."""
        parameters = serving.parameters()
        answers = [serving.decode(*each, parameters)["answer"] for each in zip(given, windows, results, strict=True)]
        return float(np.mean([answer_f1(*pair) for pair in zip(answers, targets, strict=True)]))
