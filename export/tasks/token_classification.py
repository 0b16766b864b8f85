"""Export token classification: the metric is the F1 of whole entities, computed by seqeval."""

from collections.abc import Sequence
from typing import Any, ClassVar

from tuneport.errors import CheckpointError
from tuneport.metrics.entities import score_entities
from tuneport.runtime.batch import EncodedInput, RowOutputs
from tuneport.runtime.tasks.base import RuntimeTask
from tuneport.runtime.tasks.token_classification import Sentence
from tuneport.runtime.tasks.token_classification import Task as Tagger
from tuneport.schema.artifact import Processing
from tuneport.tags import scheme_of_tags

from ..checkpoint import Checkpoint
from .base import ExportTask
from .processing import encoder_processing
from .windows import stride_of


class Task(ExportTask):
    """Rows of `tokens` with their `tags`."""

    outputs: ClassVar = ("logits",)
    example: Any = "Yes."

    def __init__(self, checkpoint: Checkpoint) -> None:
        """Keep the checkpoint and its tag scheme; a CheckpointError for labels that the scheme does not have."""
        super().__init__(checkpoint)
        self._scheme = scheme_of_tags(checkpoint.facts.tag_scheme or "BIO", checkpoint.labels)
        for label in checkpoint.labels:
            if problem := self._scheme.find_malformed(label):
                raise CheckpointError(f"{checkpoint.folder}: {problem}", "correct id2label in config.json")

    def processing(self) -> Processing:
        """Return how texts are read in windows, and the tag scheme."""
        return encoder_processing(
            self.checkpoint,
            doc_stride=stride_of(self.checkpoint),
            tag_scheme=self._scheme.name,
        )

    def read_input(self, row: dict[str, Any]) -> Any:
        """Return the words of a sentence, or a text that the runtime splits into words."""
        if not isinstance(row["tokens"], list | str):
            raise ValueError("tokens is neither a list nor a text")
        return {"tokens": row["tokens"]} if isinstance(row["tokens"], list) else row["tokens"]

    def read_target(self, row: dict[str, Any]) -> list[str]:
        """Return the tags of a sentence's words."""
        tokens, tags = row["tokens"], row["tags"]
        if not isinstance(tokens, list) or not isinstance(tags, list) or len(tokens) != len(tags):
            raise ValueError("tokens and tags are not lists of one length")
        if unknown := [tag for tag in tags if tag not in self.checkpoint.labels]:
            raise ValueError(f"tag {unknown[0]!r} is not one of the model's {list(self.checkpoint.labels)[:20]}")
        if problem := self._scheme.find_problem(tags):
            raise ValueError(problem)
        return tags

    def with_text(self, text: str, like: Any) -> Any:
        """Return the text, which the runtime splits into words."""
        return text

    def torch_inputs(self, parsed_inputs: Sequence[Sentence]) -> dict[str, Any]:
        """Return tokenizer arguments that split sentences of words into overlapping windows."""
        words = [[each.text[start:end] for start, end in each.words] for each in parsed_inputs]
        return {
            "text": words,
            "is_split_into_words": True,
            "truncation": True,
            "stride": stride_of(self.checkpoint),
            "return_overflowing_tokens": True,
        }

    def score(
        self,
        runtime_task: RuntimeTask,
        parsed_inputs: Sequence[Sentence],
        windows: Sequence[Sequence[EncodedInput]],
        results: Sequence[Sequence[RowOutputs]],
        targets: Sequence[list[str]],
    ) -> float:
        """Return F1 over all entities."""
        assert isinstance(runtime_task, Tagger)
        predicted = [runtime_task.tags(*each) for each in zip(parsed_inputs, windows, results, strict=True)]
        return score_entities(list(targets), predicted, self._scheme)[0]["f1"]
