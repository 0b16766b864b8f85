"""Liking at export time."""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from toy_task.runtime import probability
from tuneport.runtime.batch import EncodedInput, RowOutputs
from tuneport.runtime.tasks.base import RuntimeTask
from tuneport.schema.artifact import Processing
from tuneport.stages.export.tasks.base import ExportTask


class Task(ExportTask):
    """Rows of `text` and `liked`."""

    outputs: ClassVar = ("logits",)
    columns = ("text", "liked")
    target_columns = ("liked",)

    def processing(self) -> Processing:
        tokenizer = self.checkpoint.tokenizer
        return Processing(max_length=self.checkpoint.max_length, pad_token_id=tokenizer.pad_token_id)

    def read_input(self, row: dict[str, Any]) -> Any:
        return row["text"]

    def read_target(self, row: dict[str, Any]) -> bool:
        if not isinstance(row["liked"], bool):
            raise ValueError(f"liked is {row['liked']!r}")
        return row["liked"]

    def torch_inputs(self, parsed_inputs: Sequence[str]) -> dict[str, Any]:
        return {"text": list(parsed_inputs), "truncation": True}

    def score(
        self,
        runtime_task: RuntimeTask,
        parsed_inputs: Sequence[str],
        windows: Sequence[Sequence[EncodedInput]],
        results: Sequence[Sequence[RowOutputs]],
        targets: Sequence[bool],
    ) -> float:
        probabilities = probability(np.stack([each[0]["logits"] for each in results]))
        return float(np.mean((probabilities - np.array(targets, float)) ** 2))
