"""Choose golden cases, real inputs and edge cases, and compute torch's outputs on them."""

from collections.abc import Iterator, Sequence
from typing import Any

from transformers import PreTrainedTokenizerFast

from tuneport.errors import InputError
from tuneport.runtime.batch import RowOutputs
from tuneport.runtime.tasks.base import RuntimeTask
from tuneport.schema.artifact import GoldenCase

from .checkpoint import Checkpoint
from .reference import TorchModel
from .tasks.base import ExportTask

EDGE_CASES = (
    "",
    " \t\n ",
    "?",
    "Größe, naïveté, Ελλάδα, Привет, こんにちは世界, مرحبا, नमस्ते",
    "e\u0301 vs \u00e9, ﬁne, \u200bzero\u00a0width",
    "🙂🙃 👩\u200d👩\u200d👧\u200d👦 €5 ½ ²",
    "<p>1 &lt; 2</p> https://example.com/?q=a%20b#c user@example.com #tag @name",
    "0 -1 3.14159 1e-9 1,000,000 2026-11-22T00:00:00Z",
    "supercalifragilisticexpialidocious" * 8,
    "[CLS] [SEP] [PAD] [UNK] [MASK] <s> </s> <pad>",
)
PLAIN = (
    "Yes.",
    "The parcel came two days late.",
    "Their second album sold better than anyone at the label had dared to hope in the spring.",
    "Shares fell after the company said that profits for the quarter would be lower than expected, and that it "
    "would close two of its five plants before the end of the year unless orders recovered.",
)
"""Used in place of validation texts where there is no data."""
VOCABULARY_WORDS = 64
"""Words to take from a vocabulary that lacks those of the texts."""
MIXED = 8
"""Texts in the batch of mixed lengths, evenly spaced from the shortest to the longest."""


def golden_cases(
    checkpoint: Checkpoint, task: ExportTask, runtime_task: RuntimeTask, reference: TorchModel, inputs: Sequence[Any]
) -> list[GoldenCase]:
    """Choose golden cases and compute torch's outputs on each one alone, without padding."""
    cases = []
    for batch, value in task.golden_inputs(inputs) or _text_inputs(checkpoint, task, inputs):
        parsed_inputs = [runtime_task.parse_input(value)]
        try:
            runtime_task.encode(parsed_inputs)
        except InputError:  # an empty text, where the tokenizer adds no special tokens: serving refuses it
            continue
        (outputs,) = reference.outputs(runtime_task, parsed_inputs)
        cases.append(GoldenCase(batch=batch, input=value, outputs=tuple(map(_to_lists, outputs))))
    return cases


def _text_inputs(checkpoint: Checkpoint, task: ExportTask, inputs: Sequence[Any]) -> list[tuple[str, Any]]:
    """Choose inputs of texts, each with the name of its batch."""
    real = sorted(inputs or [task.with_text(text, task.example) for text in PLAIN], key=lambda each: len(str(each)))
    spread = [real[round(i * (len(real) - 1) / (MIXED - 1))] for i in range(MIXED)]
    words = " ".join(" ".join(_strings(each)) for each in spread).split()
    words = words or " ".join(PLAIN).split()  # all of the texts may be blank
    words = known_words(checkpoint.tokenizer, words)
    full = fill(checkpoint.tokenizer, words, checkpoint.max_length)
    batches: dict[str, list[str]] = {
        "one-word": words[:1],
        **{f"length-{length}": [fill(checkpoint.tokenizer, words, length)] for length in _lengths(checkpoint)},
        "full-length": [full],
        "too-long": [" ".join(words * 3 + [full] * 2), words[0]],
        "awkward": list(EDGE_CASES),
    }
    chosen: list[tuple[str, Any]] = [("mixed", each) for each in spread]
    if checkpoint.may_be_reranker:  # which takes single texts, too
        chosen += [("single-text", text) for text in PLAIN]
    like = min(real, key=lambda each: len(str(each)))
    return chosen + [(batch, task.with_text(text, like)) for batch, texts in batches.items() for text in texts]


def _lengths(checkpoint: Checkpoint) -> list[int]:
    """Return lengths in tokens between one word and the maximum."""
    return sorted({checkpoint.max_length * eighths // 8 for eighths in (1, 2, 4, 6)} - {0, checkpoint.max_length})


def _to_lists(outputs: RowOutputs) -> dict[str, Any]:
    """Convert arrays to nested lists, rounded to the 8 significant digits that identify a float32."""
    return {name: _rounded(values.tolist()) for name, values in outputs.items()}


def _rounded(value: Any) -> Any:
    if isinstance(value, list):
        return [_rounded(each) for each in value]
    return value if isinstance(value, int) else float(f"{value:.8g}")


def _strings(value: Any) -> Iterator[str]:
    """Yield all strings of an input."""
    if isinstance(value, str):
        yield value
    else:
        for each in value.values() if isinstance(value, dict) else value:
            yield from _strings(each)


def known_words(tokenizer: PreTrainedTokenizerFast, words: list[str]) -> list[str]:
    """Return the words or, if the tokenizer knows less than half of them, words of its vocabulary.

    A long text of unknown tokens alone says little: all of its tokens have the same embedding.
    """

    def is_known(word: str) -> bool:
        ids = tokenizer(word, add_special_tokens=False, verbose=False)["input_ids"]
        return bool(ids) and tokenizer.unk_token_id not in ids

    known = [word for word in words if is_known(word)]
    if 2 * len(known) >= len(words):
        return words
    ids = range(0, len(tokenizer), max(1, len(tokenizer) // VOCABULARY_WORDS))
    candidates = (tokenizer.decode([index], skip_special_tokens=True).strip() for index in ids)
    return [*known, *(word for word in candidates if word and is_known(word))] or words


def fill(tokenizer: PreTrainedTokenizerFast, words: list[str], length: int) -> str:
    """Join words to a text of `length` tokens, or of slightly fewer if no word fills the rest."""
    count = tokenizer.num_special_tokens_to_add()
    text: list[str] = []
    for word in words * (length // max(1, len(words)) + 1):
        size = len(tokenizer(" " + word, add_special_tokens=False, verbose=False)["input_ids"])
        if count + size <= length:
            text.append(word)
            count += size
    return " ".join(text)
