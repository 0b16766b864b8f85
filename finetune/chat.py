"""Encodes chats as token ids, with the tokens of the assistant's answers as targets."""

import itertools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from transformers.utils.chat_template_utils import render_jinja_template

from tuneport.data.rows import preview
from tuneport.errors import CheckpointError, DataError, TuneportError
from tuneport.runtime.tasks.text_generation import ROLES

from .config import FinetuneConfig
from .losses import IGNORED

GENERATION_BLOCK = re.compile(r"\{%-?\s*generation\s*-?%\}")
"""Marks the assistant's answers in a chat template, where it has such marks."""
Message = dict[str, str]


def find_message_problem(messages: Any) -> str | None:
    """Return the first problem of a row's messages; None if there is none."""
    if not isinstance(messages, list) or not messages:
        return f"messages is {preview(messages)}, and a list of messages is expected"
    for number, message in enumerate(messages, 1):
        if not isinstance(message, dict):
            return f"message {number} is {preview(message)}, and an object with role and content is expected"
        if message.get("role") not in ROLES:
            return f"message {number} has the role {message.get('role')!r}, not one of {', '.join(ROLES)}"
        content = message.get("content")
        if not isinstance(content, str) or not content.strip():
            return f"message {number} has the content {preview(content)}"
    if messages[0]["role"] == "assistant":
        return "the first message is an assistant's, and an answer needs a question"
    return None if any(message["role"] == "assistant" for message in messages) else "no message has the role assistant"


def load_template(tokenizer: Any, source: str, config: FinetuneConfig) -> None:
    """Set the tokenizer's chat template to that of the settings, if they have one.

    Raises CheckpointError without a template, and for slow tokenizers, which do not return character offsets.
    """
    if config.chat_template is not None:
        try:
            tokenizer.chat_template = Path(config.chat_template).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            problem = f"cannot read the chat template {config.chat_template} ({error})"
            raise TuneportError(problem, "give a Jinja file in UTF-8") from error
    if not tokenizer.chat_template:
        raise CheckpointError(
            f"the tokenizer of {source} has no chat template, which rows of messages need",
            "give --set chat_template=FILE.jinja, or a model for chats",
        )
    if not tokenizer.is_fast:
        raise CheckpointError(
            f"the tokenizer of {source} does not return the characters of a token",
            "chats need a model with a fast tokenizer (tokenizer.json)",
        )


def encode_chat(messages: Sequence[Message], tokenizer: Any) -> tuple[list[int], list[int]]:
    """Return a chat's token ids, and labels that are `IGNORED` outside of the answers; both have one entry a token.

    A token belongs to an answer if at least one of its characters does. Raises DataError for a chat that the template
    refuses, or whose answers cannot be located in the rendered text.
    """
    try:
        text, answers = _render_with_answers(messages, tokenizer)
    except TemplateError as error:
        raise DataError(f"the chat template refuses it ({error})", "correct the row") from error
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    ids = encoded["input_ids"]
    inside = [any(first < end and start < last for first, last in answers) for start, end in encoded["offset_mapping"]]
    # The first token has no tokens before it to be predicted from.
    return ids, [token if i and inside[i] else IGNORED for i, token in enumerate(ids)]


def _render_with_answers(messages: Sequence[Message], tokenizer: Any) -> tuple[str, list[tuple[int, int]]]:
    """Render a chat and locate its answers: start and end of each, in characters."""
    template = tokenizer.get_chat_template()
    if GENERATION_BLOCK.search(template):
        texts, spans = render_jinja_template(
            conversations=[list(messages)],
            chat_template=template,
            return_assistant_tokens_mask=True,
            **tokenizer.special_tokens_map,
        )
        return texts[0], [(start, end) for start, end in spans[0]]
    text = _render(messages, tokenizer)
    return text, [
        _answer_span(messages[:i], messages[: i + 1], text, tokenizer)
        for i, message in enumerate(messages)
        if message["role"] == "assistant"
    ]


def _answer_span(before: Sequence[Message], through: Sequence[Message], text: str, tokenizer: Any) -> tuple[int, int]:
    """Locate an answer: what the template renders after the prompt for it, the end of the turn included."""
    prompt = _render(before, tokenizer, add_generation_prompt=True)
    rendered = _render(through, tokenizer)
    if not rendered.startswith(prompt) or not text.startswith(rendered):
        raise DataError(
            "the chat template renders earlier turns differently from later ones, so answers cannot be located",
            "mark them in the template with {% generation %}, or give rows of one answer",
        )
    return len(prompt), len(rendered)


def _render(messages: Sequence[Message], tokenizer: Any, *, add_generation_prompt: bool = False) -> str:
    return str(
        tokenizer.apply_chat_template(
            list(messages), tokenize=False, add_generation_prompt=add_generation_prompt, verbose=False
        )
    )


def format_chat(messages: Sequence[Message]) -> tuple[str, str]:
    """Format a chat for the report: the messages before its first answer, and all answers."""
    prompt = itertools.takewhile(lambda message: message["role"] != "assistant", messages)
    answers = (message["content"] for message in messages if message["role"] == "assistant")
    return " ⟂ ".join(message["content"] for message in prompt), " ⟂ ".join(answers)
