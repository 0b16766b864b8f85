"""Export extractive question answering: the metric is the word-level F1 of SQuAD."""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from tuneport.data.answers import find_answer_problems, read_answers
from tuneport.metrics.spans import answer_f1
from tuneport.runtime.batch import EncodedInput, RowOutputs
from tuneport.runtime.tasks.base import RuntimeTask
from tuneport.schema.artifact import Processing

from .base import ExportTask
from .processing import encoder_processing
from .windows import stride_of


class Task(ExportTask):
    """Rows of `context`, `question` and `answers`."""

    outputs: ClassVar = ("start_logits", "end_logits")
    example: Any = {"question": "What?", "context": "Yes."}  # noqa: RUF012 -- nobody changes it

    def processing(self) -> Processing:
        """Return how contexts are read in windows and whether questions may have no answer."""
        return encoder_processing(
            self.checkpoint,
            accepts_pairs=True,
            doc_stride=stride_of(self.checkpoint),
            has_unanswerable=bool(getattr(self.checkpoint.config, "has_unanswerable", False)),
        )

    def read_input(self, row: dict[str, Any]) -> Any:
        """Return question and context."""
        for name in ("question", "context"):
            if not isinstance(row[name], str):
                raise ValueError(f"{name} is not a text")
        return {"question": row["question"], "context": row["context"]}

    def read_target(self, row: dict[str, Any]) -> list[str]:
        """Return the texts of the answers; an empty text if there is none."""
        if problem := next(find_answer_problems(row), None):
            raise ValueError(problem)
        return [text for text, _ in read_answers(row["answers"])] or [""]

    def with_text(self, text: str, like: Any) -> Any:
        """Return the question of `like` with the text as its context."""
        return {**like, "context": text}

    def torch_inputs(self, parsed_inputs: Sequence[tuple[str, str]]) -> dict[str, Any]:
        """Return tokenizer arguments that split contexts into overlapping windows."""
        return {
            "text": [question for question, _ in parsed_inputs],
            "text_pair": [context for _, context in parsed_inputs],
            "truncation": "only_second",
            "stride": stride_of(self.checkpoint),
            "return_overflowing_tokens": True,
        }

    def score(
        self,
        runtime_task: RuntimeTask,
        parsed_inputs: Sequence[tuple[str, str]],
        windows: Sequence[Sequence[EncodedInput]],
        results: Sequence[Sequence[RowOutputs]],
        targets: Sequence[list[str]],
    ) -> float:
        """Return the mean word-level F1."""
        parameters = runtime_task.parameters()
        answers = [
            runtime_task.decode(*each, parameters)["answer"]
            for each in zip(parsed_inputs, windows, results, strict=True)
        ]
        return float(np.mean([answer_f1(*pair) for pair in zip(answers, targets, strict=True)]))
