"""Text generation at the gate: the share of a known answer's tokens that the model finds likeliest.

Each is asked for after the right ones before it (teacher forcing). Unlike perplexity it is a share, so that
`max_drop` means what it does elsewhere; unlike a comparison of texts it does not hang on the first token that
differs. The losses behind the perplexity are compared with torch's number by number.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from export.checkpoint import Checkpoint
from export.tasks.generative import WritingTask
from serve.batcher import Result
from serve.tasks import Task as ServingTask
from serve.tasks.text_generation import Ask
from serve.tokenizer import Row


class Task(WritingTask):
    """Rows of `messages`, the last one the answer, or of `text`, whose second half is taken as one."""

    auto_model: ClassVar[str] = "AutoModelForCausalLM"
    metric: ClassVar[str] = "token_accuracy"

    def __init__(self, checkpoint: Checkpoint) -> None:
        """Expect what a run was trained on; of a model from elsewhere, chats if it has a template for them."""
        super().__init__(checkpoint)
        self.columns = ()
        self.optional = ("text", "messages")

    def read(self, row: dict[str, Any]) -> tuple[Any, Any]:
        """Return what comes before an answer, with the answer, which is the target as well."""
        if row.get("messages"):
            messages = row["messages"]
            last = max((i for i, each in enumerate(messages) if each["role"] == "assistant"), default=0)
            if not last:
                raise ValueError("messages have no answer")
            asked = [{"role": each["role"], "content": each["content"]} for each in messages[:last]]
            return {"messages": asked, "answer": messages[last]["content"]}, messages[last]["content"]
        words = row["text"].split(" ") if isinstance(row.get("text"), str) else []
        if len(words) < 2:
            raise ValueError("text has no two words")
        half = len(words) // 2
        return {"text": " ".join(words[:half]), "answer": " " + " ".join(words[half:])}, " ".join(words[half:])

    def with_text(self, text: str, like: Any) -> Any:
        """Ask with a text, in a chat if `like` is one."""
        is_chat = isinstance(like, dict) and "messages" in like
        return {"messages": [{"role": "user", "content": text}]} if is_chat else text

    def for_torch(self, given: Sequence[Ask]) -> dict[str, Any]:
        """Read prompts as transformers does; a chat's template has put the special tokens in."""
        return self.encode([(ask.text, not ask.is_chat) for ask in given])

    def score(
        self,
        serving: ServingTask,
        given: Sequence[Any],
        windows: Sequence[Sequence[Row]],
        results: Sequence[Sequence[Result]],
        targets: Sequence[Any],
    ) -> float:
        """Return the share over all tokens of all answers."""
        hits = np.concatenate([each[0]["hits"] for each in results])
        return float(hits.mean()) if len(hits) else 0.0

    def score_texts(self, texts: list[str], targets: list[str]) -> float:
        """Return the share of texts that are right to the letter: none asks for it."""
        return float(np.mean([text.strip() == right.strip() for text, right in zip(texts, targets, strict=True)]))
