"""Golden cases: real and awkward inputs, each with torch's answer, in the batches that they run in."""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerFast

from export.checkpoint import Checkpoint
from export.manifest import GoldenCase
from export.reference import TorchModel
from serve.tokenizer import Text

AWKWARD = (
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
"""Stand in for validation text where there is none."""
MIXED = 8
"""Real texts in the mixed batch, spread evenly from the shortest to the longest."""


def golden_cases(checkpoint: Checkpoint, reference: TorchModel, texts: Sequence[Text]) -> list[GoldenCase]:
    """Choose the cases and ask torch for its logits, every case alone and unpadded."""
    real = sorted(texts or PLAIN, key=lambda text: len(str(text)))
    spread = [real[round(i * (len(real) - 1) / (MIXED - 1))] for i in range(MIXED)]
    words = " ".join(text if isinstance(text, str) else " ".join(text) for text in spread).split()
    words = words or " ".join(PLAIN).split()  # all of the texts may be blank
    full = fill(checkpoint.tokenizer, words, checkpoint.max_length)
    batches: dict[str, list[str]] = {
        "one-word": words[:1],
        "full-length": [full],
        "too-long": [" ".join(words * 3 + [full] * 2), words[0]],
        "awkward": list(AWKWARD),
    }
    chosen: list[tuple[str, Text]] = [("mixed", text) for text in spread]
    for batch, plain in batches.items():
        chosen += [(batch, (first, words[-1]) if checkpoint.accepts_pairs else first) for first in plain]
    cases = []
    for batch, text in chosen:
        first, second = (text, None) if isinstance(text, str) else text
        logits = tuple(float(value) for value in reference.logits([text])[0])
        cases.append(GoldenCase(batch=batch, text=first, text_pair=second, logits=logits))
    return cases


def fill(tokenizer: PreTrainedTokenizerFast, words: list[str], length: int) -> str:
    """Join words to a text of exactly `length` tokens where they allow it, never more."""
    count = tokenizer.num_special_tokens_to_add()
    text: list[str] = []
    for word in words * (length // max(1, len(words)) + 1):
        size = len(tokenizer(" " + word, add_special_tokens=False, verbose=False)["input_ids"])
        if count + size <= length:
            text.append(word)
            count += size
    return " ".join(text)
