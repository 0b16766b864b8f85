"""Token classification at the gate: F1 of whole entities, by seqeval."""

from collections.abc import Sequence
from typing import Any, ClassVar

from export.checkpoint import Checkpoint
from export.manifest import Processing
from export.tasks.strides import stride_of
from finetune.entities import detect_scheme, score_entities
from serve.batcher import Result
from serve.tasks import Task as ServingTask
from serve.tasks.token_classification import Sentence
from serve.tasks.token_classification import Task as Tagger
from serve.tokenizer import Row


class Task:
    """Rows of `tokens` with their `tags`."""

    auto_model: ClassVar = "AutoModelForTokenClassification"
    outputs: ClassVar = ("logits",)
    metric: ClassVar = "f1"
    lower_is_better: ClassVar = False
    columns: tuple[str, ...] = ("tokens", "tags")
    example: Any = "Yes."

    def __init__(self, checkpoint: Checkpoint) -> None:
        """Read from the labels what scheme they follow: its letters tell."""
        self._checkpoint = checkpoint
        # Sentences of one tag each, every one an opener, as far as a list of labels can tell.
        self._scheme = detect_scheme([label] for label in checkpoint.labels)

    def processing(self) -> Processing:
        """Say that long texts go over in windows."""
        tokenizer = self._checkpoint.tokenizer
        return Processing(
            max_length=self._checkpoint.max_length,
            pad_token_id=tokenizer.pad_token_id or 0,
            pad_token_type_id=tokenizer.pad_token_type_id,
            padding_side=tokenizer.padding_side,
            doc_stride=stride_of(self._checkpoint),
            tag_scheme=self._scheme.name,
        )

    def read(self, row: dict[str, Any]) -> tuple[Any, Any]:
        """Return the words of a sentence, and the right tags."""
        tokens, tags = row["tokens"], row["tags"]
        if not isinstance(tokens, list) or not isinstance(tags, list) or len(tokens) != len(tags):
            raise ValueError("tokens and tags are not lists of one length")
        if unknown := [tag for tag in tags if tag not in self._checkpoint.labels]:
            raise ValueError(f"tag {unknown[0]!r} is not one of the model's {list(self._checkpoint.labels)[:20]}")
        return {"tokens": tokens}, tags

    def with_text(self, text: str, like: Any) -> Any:
        """Take running text as it is."""
        return text

    def for_torch(self, given: Sequence[Sentence]) -> dict[str, Any]:
        """Encode words in overlapping windows."""
        words = [[each.text[start:end] for start, end in each.words] for each in given]
        return {
            "text": words,
            "is_split_into_words": True,
            "truncation": True,
            "stride": stride_of(self._checkpoint),
            "return_overflowing_tokens": True,
        }

    def score(
        self,
        serving: ServingTask,
        given: Sequence[Sentence],
        windows: Sequence[Sequence[Row]],
        results: Sequence[Sequence[Result]],
        targets: Sequence[list[str]],
    ) -> float:
        """Return F1 over all entities."""
        assert isinstance(serving, Tagger)
        predicted = [serving.tags(*each) for each in zip(given, windows, results, strict=True)]
        return score_entities(list(targets), predicted, self._scheme)[0]["f1"]
