"""Text generation: the continuation of a prompt, or the next message of a chat."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from tuneport.errors import InputError
from tuneport.runtime.batch import EncodedInput, RowOutputs
from tuneport.runtime.tasks import inputs
from tuneport.runtime.tasks.generation import GenerationTask, Prompt
from tuneport.runtime.tasks.sampling import GenerationParameters

ROLES = ("system", "user", "assistant", "tool")
MAX_LOSS = 700.0
"""The exponential of a larger mean loss overflows."""
SHAPE = 'a string, or {"messages": [{"role": "user", "content": "…"}]}'


@dataclass(frozen=True)
class PromptInput:
    """A prompt as text."""

    text: str
    is_chat: bool
    """Whether a chat template rendered it, and has added the special tokens."""
    answer: str | None = None
    """A reference answer, whose likelihood is computed beside the model's own answer."""


class Task(GenerationTask):
    """Reads prompts and chats."""

    is_stripped: ClassVar = False

    @property
    def has_chat_template(self) -> bool:
        """Whether the model's tokenizer has a template for chats."""
        return bool(self.processor.has_chat_template)

    def parse_input(self, value: Any) -> PromptInput:
        """Check one input: a string, an object with `text`, or one with `messages`.

        With an `answer` beside them, the prediction has its perplexity as `answer_perplexity`.
        """
        fields = {"text": value} if isinstance(value, str) else value
        if not isinstance(fields, Mapping):
            raise InputError(f"an input is {inputs.describe(value)}", f"send {SHAPE}")
        answer = inputs.check_text(fields["answer"], "answer") if "answer" in fields else None
        prompt = {name: field for name, field in fields.items() if name != "answer"}
        if set(prompt) != {"messages"}:
            (text,) = inputs.read_strings(prompt, ("text",), SHAPE, value=value)
            return PromptInput(text, False, answer)
        messages = check_messages(prompt["messages"])
        text = self.processor.chat(messages)
        if answer is None:
            return PromptInput(text, True)
        whole = self.processor.chat([*messages, {"role": "assistant", "content": answer}], is_finished=True)
        return PromptInput(text, True, whole[len(text) :] if whole.startswith(text) else answer)

    def encode(self, parsed_inputs: Sequence[PromptInput]) -> list[list[EncodedInput]]:
        """Return a row for each prompt; one longer than the model's maximum loses its beginning."""
        return [[self._encode(parsed_input)] for parsed_input in parsed_inputs]

    def decode(
        self,
        parsed_input: PromptInput,
        rows: Sequence[EncodedInput],
        outputs: Sequence[RowOutputs],
        parameters: GenerationParameters,
    ) -> Any:
        """Return `{"text", "finish_reason"}` and, with a reference answer, its `answer_perplexity`."""
        prediction = super().decode(parsed_input, rows, outputs, parameters)
        losses = outputs[0].get("losses")
        if parsed_input.answer is None or losses is None or not len(losses):
            return prediction
        perplexity = np.exp(min(float(losses.mean()), MAX_LOSS))
        return {**prediction, "answer_perplexity": float(f"{perplexity:.6g}")}

    def remaining_positions(self, prompt_tokens: int) -> int:
        """Return the positions that a prompt leaves for new tokens."""
        return self.generation.positions - prompt_tokens

    def _encode(self, parsed_input: PromptInput) -> Prompt:
        special = not parsed_input.is_chat
        ((ids, truncated),) = self.processor.encode([parsed_input.text], special=special)
        if parsed_input.answer is None:
            return self.prompt(ids, truncated=truncated)
        whole, prompt = (
            self.processor.ids(text, self.generation.positions, special=special)
            for text in (parsed_input.text + parsed_input.answer, parsed_input.text)
        )
        # A token may span the end of the prompt and the start of the answer: the prompt is their common beginning.
        common = next((i for i, pair in enumerate(zip(prompt, whole, strict=False)) if pair[0] != pair[1]), len(prompt))
        first_scored = max(1, min(common, len(whole)))  # no position predicts the first token
        return self.prompt(ids, truncated=truncated, scored=tuple(whole), scored_from=first_scored)


def check_messages(messages: Any) -> list[dict[str, str]]:
    """Return the messages of a chat, checked: a list of objects with `role` and `content`."""
    if not isinstance(messages, list) or not messages:
        raise InputError(f'"messages" is {inputs.describe(messages)}', f"send {SHAPE}")
    checked = []
    for message in messages:
        role, content = inputs.read_strings(message, ("role", "content"), SHAPE)
        if role not in ROLES:
            raise InputError(f"a message has the role {role[:40]!r}", f"use one of {', '.join(ROLES)}")
        checked.append({"role": role, "content": content})
    return checked
