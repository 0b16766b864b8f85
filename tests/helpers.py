"""What several tests share: the tiny model and its texts, a torch reference, and running the command line."""

import contextlib
import io
import json
import random
import signal
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    BertTokenizerFast,
)

ROOT = Path(__file__).parents[1]
LABELS = ("calm", "loud", "odd")
MAX_LENGTH = 64
WORDS = tuple(
    "a the of in on at by is was not no yes it they we you he she this that and or but so then when shares bank fell "
    "rose game team won lost film music song band court law vote party phone chip code data cloud late early good bad "
    "great poor new old cold warm 7 42 2026 ! ? . ,".split()
)
SPLIT_ROWS = {"train": 60, "validation": 240, "test": 60}
SEED = 4
MARGIN = 3.0
"""Between the two highest logits of a text in the data: more than what int8 costs on any processor."""


@dataclass(frozen=True)
class Server:
    """A server that is running."""

    url: str
    pid: int


@dataclass(frozen=True)
class Answer:
    """How a command ended."""

    code: int
    out: str
    err: str


def build_checkpoint(
    folder: Path, labels: Sequence[str] = LABELS, architecture: type = BertForSequenceClassification
) -> None:
    """Save a random two-layer BERT whose logits lie apart and spread evenly over the labels."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = _build_tokenizer(folder)
    torch.manual_seed(SEED)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=MAX_LENGTH,
        initializer_range=0.15,  # the usual 0.02 gives every text nearly the same answer
        id2label=dict(enumerate(labels)),
        label2id={label: i for i, label in enumerate(labels)},
    )
    model = architecture(config).eval()
    if architecture is BertForSequenceClassification:
        _spread_logits(model, tokenizer)
    model.save_pretrained(folder, safe_serialization=True)
    tokenizer.save_pretrained(folder)


def random_texts(seed: int) -> Iterator[str]:
    """Yield texts of one to forty words, some of them unknown to the vocabulary."""
    chance = random.Random(seed)
    while True:
        words = chance.choices(WORDS, k=chance.choice((1, 3, 8, 20, 40)))
        yield " ".join(word.title() if chance.random() < 0.1 else word for word in words)


def write_data(folder: Path, checkpoint: Path, margin: float = MARGIN) -> None:
    """Write three splits of texts that the model is sure about; every tenth row has another label."""
    torch_model = TorchReference(checkpoint)
    texts = random_texts(SEED)
    for split, count in SPLIT_ROWS.items():
        rows: list[dict[str, str]] = []
        while len(rows) < count:
            text = next(texts)
            best, second = np.sort(torch_model.logits([text])[0])[:-3:-1]
            if best - second > margin:
                chosen = torch_model.labels([text])[0]
                wrong = LABELS[(LABELS.index(chosen) + 1) % len(LABELS)]
                rows.append({"text": text, "label": wrong if len(rows) % 10 == 9 else chosen})
        write_rows(folder / f"{split}.jsonl", rows)


def write_rows(file: Path, rows: Iterable[Any]) -> Path:
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return file


def read_rows(file: Path) -> list[Any]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


class TorchReference:
    """transformers alone, one text at a time: what every answer must equal."""

    def __init__(self, checkpoint: Path) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(checkpoint)
        self.model = AutoModelForSequenceClassification.from_pretrained(checkpoint).eval()

    def logits(self, texts: Sequence[str]) -> np.ndarray[Any, np.dtype[np.float32]]:
        rows = []
        for text in texts:
            feeds = self.tokenizer(text, truncation=True, max_length=MAX_LENGTH, return_tensors="pt", verbose=False)
            with torch.inference_mode():
                rows.append(self.model(**feeds).logits[0].numpy())
        return np.stack(rows)

    def labels(self, texts: Sequence[str]) -> list[str]:
        return [LABELS[i] for i in self.logits(texts).argmax(-1)]

    def probabilities(self, texts: Sequence[str]) -> np.ndarray[Any, np.dtype[np.float32]]:
        result: np.ndarray[Any, np.dtype[np.float32]] = torch.softmax(torch.tensor(self.logits(texts)), -1).numpy()
        return result


def change_byte(file: Path, at: int | None = None) -> None:
    """Flip the lowest bit of one byte, the middle one if none is named."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2 if at is None else at] ^= 1
    file.write_bytes(content)


def reseal(folder: Path, changes: dict[str, Any]) -> None:
    """Change a manifest's fields and seal it again, as another version of the program would have."""
    from export.files import digest

    path = folder / "manifest.json"
    content = {**json.loads(path.read_text(encoding="utf-8")), **changes}
    content.pop("seal")
    path.write_text(json.dumps({**content, "seal": digest(content)}), encoding="utf-8")


def tuneport(*arguments: str | Path, stdin: bytes = b"") -> Answer:
    """Run the command line in this process, as the installed script does."""
    from tuneport.cli import main

    out, err = io.StringIO(), io.StringIO()
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        with (
            mock.patch.object(sys, "argv", ["tuneport", *map(str, arguments)]),
            mock.patch.object(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8")),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            try:
                main()
            except SystemExit as end:
                code = end.code if isinstance(end.code, int) else 1
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return Answer(code, out.getvalue(), err.getvalue())


def _build_tokenizer(folder: Path) -> BertTokenizerFast:
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    pieces = [*letters, *(f"##{letter}" for letter in letters), "##ing", "##ed", "##s", *"-'\"/:;()<>@#%&="]
    vocabulary = list(dict.fromkeys([*special, *WORDS, *pieces]))
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    return BertTokenizerFast(vocab_file=str(folder / "vocab.txt"), do_lower_case=True, model_max_length=MAX_LENGTH)


def _spread_logits(model: BertForSequenceClassification, tokenizer: BertTokenizerFast) -> None:
    """Scale and shift the classifier so that over many texts each logit has mean 0 and deviation 4."""
    texts = [text for text, _ in zip(random_texts(SEED + 1), range(300), strict=False)]
    feeds = tokenizer(texts, truncation=True, padding=True, return_tensors="pt")
    with torch.no_grad():
        logits = model(**feeds).logits
        scale = 4.0 / logits.std(0)
        model.classifier.weight.mul_(scale[:, None])
        model.classifier.bias.sub_(logits.mean(0)).mul_(scale)
