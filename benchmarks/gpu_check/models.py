"""Steps `data`, `random-bert` and `random-gpt2`: labelled texts, and seeded random models.

python -m tuneport.stages.benchmarks.gpu_check.models data OUT
python -m tuneport.stages.benchmarks.gpu_check.models random-bert TOKENIZER DATA OUT LAYERS HIDDEN_SIZE
python -m tuneport.stages.benchmarks.gpu_check.models random-gpt2 TOKENIZER DATA OUT LAYERS HIDDEN_SIZE
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from tuneport.folders import write_lines
from tuneport.stages.finetune.embedded import resolve_model, write_bbc_news

from ..command import one_line_errors

SEED = 0
LABELS = ("a", "b", "c", "d", "e")
MAX_LENGTH = 128
INITIALIZER_RANGE = 0.05
"""With the usual 0.02 the outputs of twelve random layers hardly depend on the text."""
DEVIATION = 4.0
"""Standard deviation of each logit over the texts, about that of a trained classifier."""
MARGIN = 1.0
"""Texts whose best two logits are closer are left out: which is higher would depend on rounding."""
GENERATIVE_RANGE = 0.1
GENERATIVE_ROWS = 50
NEW_TOKENS = 32
SPLITS = {"train": 300, "validation": 400, "test": 300}
BATCH_ROWS = 32


def random_bert(
    tokenizer_folder: Path,
    data: Path,
    out: Path,
    *,
    layers: int,
    hidden_size: int,
    max_length: int = MAX_LENGTH,
    splits: Mapping[str, int] = SPLITS,
) -> None:
    """Write OUT/checkpoint, a random BERT classifier, and OUT/data: texts of `data` with the labels that it predicts.

    `splits` has the number of texts of each split. The last layer is scaled so that each logit has mean 0 and the
    deviation `DEVIATION`, as if it were trained.
    """
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    tokenizer.model_max_length = max_length
    torch.manual_seed(SEED)
    config = BertConfig(
        vocab_size=max(len(tokenizer), max_length), hidden_size=hidden_size, num_hidden_layers=layers,
        num_attention_heads=max(1, hidden_size // 64), intermediate_size=4 * hidden_size,
        initializer_range=INITIALIZER_RANGE, pad_token_id=tokenizer.pad_token_id,
        id2label=dict(enumerate(LABELS)), label2id={label: i for i, label in enumerate(LABELS)},
    )  # fmt: skip
    model = BertForSequenceClassification(config).eval().to(_device())
    texts = {split: _texts(data / f"{split}.jsonl", count) for split, count in splits.items()}
    logits = {split: _logits(model, tokenizer, rows) for split, rows in texts.items()}
    mean, scale = logits["train"].mean(0), DEVIATION / logits["train"].std(0)
    with torch.no_grad():
        model.classifier.weight.mul_(scale[:, None].to(model.device))
        model.classifier.bias.sub_(mean.to(model.device)).mul_(scale.to(model.device))
    model.cpu().save_pretrained(out / "checkpoint")
    tokenizer.save_pretrained(out / "checkpoint")
    (out / "data").mkdir(exist_ok=True)
    for split, rows in texts.items():
        best = ((logits[split] - mean) * scale).topk(2)
        sure = (best.values[:, 0] - best.values[:, 1] > MARGIN).tolist()
        labelled = [
            {"text": text, "label": LABELS[label]}
            for text, label, is_sure in zip(rows, best.indices[:, 0].tolist(), sure, strict=True)
            if is_sure
        ]
        write_lines(out / "data" / f"{split}.jsonl", labelled)


def random_gpt2(tokenizer_folder: Path, data: Path, out: Path, *, layers: int, hidden_size: int) -> None:
    """Write OUT/checkpoint, a random GPT-2 with an encoder's tokenizer, and OUT/data: beginnings that it continued.

    What it generates has no meaning; how long that takes does not depend on the weights. They are large, so that the
    best token is seldom decided by rounding.
    """
    from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    tokenizer.model_max_length = MAX_LENGTH
    tokenizer.bos_token = tokenizer.eos_token = tokenizer.sep_token
    torch.manual_seed(SEED)
    config = GPT2Config(
        vocab_size=len(tokenizer), n_embd=hidden_size, n_layer=layers, n_head=max(1, hidden_size // 64),
        n_positions=2 * MAX_LENGTH, initializer_range=GENERATIVE_RANGE, pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.sep_token_id, eos_token_id=tokenizer.sep_token_id,
    )  # fmt: skip
    model = GPT2LMHeadModel(config).eval()
    model.generation_config.max_new_tokens = NEW_TOKENS
    with torch.no_grad():  # never the best: parts of words and marks, which a text does not show as they are
        unseen = [i for word, i in tokenizer.get_vocab().items() if not word.isalpha()]
        model.transformer.wte.weight[unseen] = 0
    model.save_pretrained(out / "checkpoint")
    tokenizer.save_pretrained(out / "checkpoint")
    (out / "data").mkdir(exist_ok=True)
    model.to(_device())
    for split in ("train", "validation"):
        texts = [_continued(model, tokenizer, text) for text in _texts(data / f"{split}.jsonl", GENERATIVE_ROWS)]
        write_lines(out / "data" / f"{split}.jsonl", [{"text": text} for text in texts])


def _continued(model: Any, tokenizer: Any, text: str) -> str:
    """Return the beginning of a text, and as many words with which a model continues it."""
    feeds = tokenizer(" ".join(text.split()[:8]), return_tensors="pt", add_special_tokens=False).to(model.device)
    count = feeds["input_ids"].shape[1]
    with torch.inference_mode():
        ids = model.generate(
            input_ids=feeds["input_ids"], attention_mask=feeds["attention_mask"], do_sample=False, min_new_tokens=count,
            max_new_tokens=count,
        )  # fmt: skip
    return str(tokenizer.decode(ids[0]))


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _texts(file: Path, count: int) -> list[str]:
    with file.open(encoding="utf-8") as lines:
        return [json.loads(line)["text"] for line, _ in zip(lines, range(count), strict=False)]


def _logits(model: Any, tokenizer: Any, texts: Sequence[str]) -> torch.Tensor:
    """Return logits, float32 (texts, labels), on the CPU."""
    batches = []
    for start in range(0, len(texts), BATCH_ROWS):
        batch = list(texts[start : start + BATCH_ROWS])
        feeds = tokenizer(batch, truncation=True, max_length=MAX_LENGTH, padding=True, return_tensors="pt")
        with torch.inference_mode():
            batches.append(model(**feeds.to(model.device)).logits.float().cpu())
    return torch.cat(batches)


def main() -> None:
    """Run a step; one line on stderr and exit code 1 if it cannot."""
    kind, *arguments = sys.argv[1:]
    with one_line_errors():
        if kind == "data":
            write_bbc_news(Path(arguments[0]))
        else:
            tokenizer, data, out, layers, hidden_size = arguments
            make = {"random-bert": random_bert, "random-gpt2": random_gpt2}[kind]
            make(
                Path(resolve_model(tokenizer)), Path(data), Path(out), layers=int(layers), hidden_size=int(hidden_size)
            )


if __name__ == "__main__":
    main()
