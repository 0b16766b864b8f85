"""Export text generation: the metric is the token accuracy with teacher forcing.

It is the share of the tokens of reference answers that the model predicts after the reference tokens before them.
Unlike perplexity it is a share, so `max_drop` has the same meaning as in other tasks; unlike a comparison of generated
texts it does not depend on the first token that differs. The gate also compares the loss of each token with torch's.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from tuneport.runtime.batch import EncodedInput, RowOutputs
from tuneport.runtime.tasks.base import RuntimeTask
from tuneport.runtime.tasks.text_generation import PromptInput

from .generative import GenerationExportTask


class Task(GenerationExportTask):
    """Rows of `messages`, whose last one is the reference answer, or of `text`, whose second half is the answer."""

    pads_left: ClassVar = True

    def read_input(self, row: dict[str, Any]) -> Any:
        """Return the prompt together with its reference answer."""
        if row.get("messages"):
            messages = row["messages"]
            last = max((i for i, each in enumerate(messages) if each["role"] == "assistant"), default=0)
            if not last:
                raise ValueError("messages have no answer")
            prompt = [{"role": each["role"], "content": each["content"]} for each in messages[:last]]
            return {"messages": prompt, "answer": messages[last]["content"]}
        text = row.get("text")
        words = text.split(" ") if isinstance(text, str) else []
        if len(words) > 1:
            half = len(words) // 2
            return {"text": " ".join(words[:half]), "answer": f" {' '.join(words[half:])}"}
        if not isinstance(text, str) or len(text) < 2:
            raise ValueError("text has no two words or characters")
        half = len(text) // 2  # no spaces, such as Chinese
        return {"text": text[:half], "answer": text[half:]}

    def read_target(self, row: dict[str, Any]) -> str:
        """Return the reference answer."""
        return str(self.read_input(row)["answer"])

    def with_text(self, text: str, like: Any) -> Any:
        """Return the text, as a chat message of the user if `like` is a chat."""
        is_chat = isinstance(like, dict) and "messages" in like
        return {"messages": [{"role": "user", "content": text}]} if is_chat else text

    def torch_inputs(self, parsed_inputs: Sequence[PromptInput]) -> dict[str, Any]:
        """Tokenize prompts; those of chats have their special tokens from the template."""
        return self.encode([(prompt.text, not prompt.is_chat) for prompt in parsed_inputs])

    def score(
        self,
        runtime_task: RuntimeTask,
        parsed_inputs: Sequence[Any],
        windows: Sequence[Sequence[EncodedInput]],
        results: Sequence[Sequence[RowOutputs]],
        targets: Sequence[Any],
    ) -> float:
        """Return the accuracy over all tokens of all answers; 0 without tokens."""
        hits = np.concatenate([each[0]["hits"] for each in results])
        return float(hits.mean()) if len(hits) else 0.0
