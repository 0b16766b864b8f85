"""Base class of tasks whose input is a text or a pair of texts, with one row of outputs for each input."""

from collections.abc import Sequence
from typing import Any, ClassVar

from tuneport.runtime.tokenizer import Text
from tuneport.schema.artifact import Processing

from ..checkpoint import Checkpoint
from .base import ExportTask
from .processing import encoder_processing


class TextTask(ExportTask):
    """Read texts and pairs from the data, and encode them with transformers' tokenizer."""

    outputs: ClassVar = ("logits",)

    def __init__(self, checkpoint: Checkpoint) -> None:
        """Keep the checkpoint; its inputs are pairs if it was trained on pairs."""
        super().__init__(checkpoint)
        needs_pairs = checkpoint.accepts_pairs and not checkpoint.may_be_reranker
        self.columns = ("text", "text_pair") if needs_pairs else ("text",)
        self.optional_columns = ("text_pair",) if checkpoint.may_be_reranker else ()
        self.example = {"text": "Yes.", "text_pair": "Yes."} if checkpoint.accepts_pairs else "Yes."

    def base_processing(self) -> Processing:
        """Return how texts are truncated and padded."""
        return encoder_processing(
            self.checkpoint,
            accepts_pairs=self.checkpoint.accepts_pairs,
            accepts_single_texts=self.checkpoint.may_be_reranker,
        )

    def read_input(self, row: dict[str, Any]) -> Any:
        """Return a row's text, or its pair as a dict."""
        names = (*self.columns, *self.optional_columns)
        texts = {name: row[name] for name in ("text", "text_pair") if name in names and name in row}
        for name, text in texts.items():
            if not isinstance(text, str):
                raise ValueError(f"{name} is not a string")
        return texts if "text_pair" in texts else texts["text"]

    def with_text(self, text: str, like: Any) -> Any:
        """Return the text, in place of the first text if `like` is a pair."""
        return {**like, "text": text} if isinstance(like, dict) else text

    def torch_inputs(self, parsed_inputs: Sequence[Text]) -> dict[str, Any]:
        """Return tokenizer arguments that truncate texts, the longer one of a pair first."""
        texts = [value if isinstance(value, str) else value[0] for value in parsed_inputs]
        second_texts = [value[1] for value in parsed_inputs if isinstance(value, tuple)]
        return {"text": texts, "text_pair": second_texts or None, "truncation": True}
