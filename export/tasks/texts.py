"""What the tasks share whose input is a text or a pair, with one row of outputs each."""

from collections.abc import Sequence
from typing import Any, ClassVar

from export.checkpoint import Checkpoint
from export.manifest import Processing
from serve.tokenizer import Text


class TextTask:
    """Reads texts and pairs from the data, and hands them to transformers' tokenizer."""

    auto_model: ClassVar = "AutoModelForSequenceClassification"
    outputs: ClassVar = ("logits",)

    def __init__(self, checkpoint: Checkpoint) -> None:
        """Remember whether the model was trained on pairs."""
        self.checkpoint = checkpoint
        self.columns: tuple[str, ...] = ("text", "text_pair") if checkpoint.accepts_pairs else ("text",)
        self.example: Any = dict.fromkeys(self.columns, "Yes.") if checkpoint.accepts_pairs else "Yes."

    def base_processing(self) -> Processing:
        """Say how rows are cut and padded."""
        tokenizer = self.checkpoint.tokenizer
        return Processing(
            max_length=self.checkpoint.max_length,
            pad_token_id=tokenizer.pad_token_id or 0,
            pad_token_type_id=tokenizer.pad_token_type_id,
            padding_side=tokenizer.padding_side,
            accepts_pairs=self.checkpoint.accepts_pairs,
        )

    def text_of(self, row: dict[str, Any]) -> Any:
        """Return a row's text, or its pair as an object."""
        texts = {name: row[name] for name in ("text", "text_pair") if name in self.columns}
        for name, text in texts.items():
            if not isinstance(text, str):
                raise ValueError(f"{name} is not a string")
        return texts if self.checkpoint.accepts_pairs else texts["text"]

    def with_text(self, text: str, like: Any) -> Any:
        """Put a text in the place of `like`'s first."""
        return {**like, "text": text} if isinstance(like, dict) else text

    def for_torch(self, given: Sequence[Text]) -> dict[str, Any]:
        """Cut as transformers does by default."""
        pairs = [text for text in given if isinstance(text, tuple)]
        firsts = [text if isinstance(text, str) else text[0] for text in given]
        return {"text": firsts, "text_pair": [second for _, second in pairs] or None, "truncation": True}
