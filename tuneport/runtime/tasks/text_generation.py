"""Text generation at serving time: a prompt or a chat, and what the model writes next."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from tuneport.errors import InputError
from tuneport.runtime.batch import EncodedInput, RowOutputs
from tuneport.runtime.tasks import inputs
from tuneport.runtime.tasks.generation import GenerationParameters, GenerationTask, Prompt

ROLES = ("system", "user", "assistant", "tool")
SHAPE = 'a string, or {"messages": [{"role": "user", "content": "…"}]}'


@dataclass(frozen=True)
class PromptInput:
    """A prompt as the model reads it."""

    text: str
    is_chat: bool
    """A chat's template has put the special tokens in already."""
    answer: str | None = None
    """A known answer, to be judged beside the model's own."""


class Task(GenerationTask):
    """Reads prompts and chats."""

    is_stripped: ClassVar = False

    def parse_input(self, value: Any) -> PromptInput:
        """Check one input: a string, an object with `text`, or one with `messages`.

        An `answer` beside them asks how likely the model finds it: `answer_perplexity` in the prediction.
        """
        fields = {"text": value} if isinstance(value, str) else value
        if not isinstance(fields, Mapping):
            raise InputError(f"an input is {inputs.describe(value)}", f"send {SHAPE}")
        answer = inputs.check_text(fields["answer"], "answer") if "answer" in fields else None
        rest = {name: each for name, each in fields.items() if name != "answer"}
        if set(rest) != {"messages"}:
            (text,) = inputs.read_strings(rest, ("text",), SHAPE, given=value)
            return PromptInput(text, False, answer)
        messages = check_messages(rest["messages"])
        asked = self.processor.chat(messages)
        if answer is None:
            return PromptInput(asked, True)
        whole = self.processor.chat([*messages, {"role": "assistant", "content": answer}], is_finished=True)
        return PromptInput(asked, True, whole[len(asked) :] if whole.startswith(asked) else answer)

    def encode(self, asks: Sequence[PromptInput]) -> list[list[EncodedInput]]:
        """Return a prompt for each; a longer one than the model's maximum loses its beginning."""
        return [[self._encode(ask)] for ask in asks]

    def decode(
        self,
        given: PromptInput,
        rows: Sequence[EncodedInput],
        results: Sequence[RowOutputs],
        parameters: GenerationParameters,
    ) -> Any:
        """Answer `{"text", "finish_reason"}`, and how likely a given answer is."""
        answer = super().decode(given, rows, results, parameters)
        losses = results[0].get("losses")
        if given.answer is None or losses is None or not len(losses):
            return answer
        return {**answer, "answer_perplexity": float(f"{np.exp(min(float(losses.mean()), 700)):.6g}")}

    def remaining_positions(self, taken: int) -> int:
        """Count the positions that a prompt leaves."""
        return self.generation.positions - taken

    def _encode(self, ask: PromptInput) -> Prompt:
        (encoded,) = self.processor.encode([ask.text], special=not ask.is_chat)
        ids, cut = encoded
        if ask.answer is None:
            return self.prompt(ids, truncated=cut)
        whole, prompt = (
            self.processor.ids(text, self.generation.positions, special=not ask.is_chat)
            for text in (ask.text + ask.answer, ask.text)
        )
        # A token may reach over the border: what both have in common is the prompt.
        common = next((i for i, pair in enumerate(zip(prompt, whole, strict=False)) if pair[0] != pair[1]), len(prompt))
        begin = max(1, min(common, len(whole)))  # nothing predicts the first token
        return self.prompt(ids, truncated=cut, scored=tuple(whole), scored_from=begin)


def check_messages(messages: Any) -> list[dict[str, str]]:
    """Check a chat: a list of objects with `role` and `content`."""
    if not isinstance(messages, list) or not messages:
        raise InputError(f'"messages" is {inputs.describe(messages)}', f"send {SHAPE}")
    checked = []
    for message in messages:
        role, content = inputs.read_strings(message, ("role", "content"), SHAPE)
        if role not in ROLES:
            raise InputError(f"a message has the role {role[:40]!r}", f"use one of {', '.join(ROLES)}")
        checked.append({"role": role, "content": content})
    return checked
