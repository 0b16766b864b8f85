"""A translation model from nothing but pairs: tokenizer and small Marian built here, then fine-tuned as users would.

    python -m benchmarks.translation_from_scratch --data DIR --out runs/translation [--set num_train_epochs=6 …]

Shows that training, generation and scoring of `translation` hang together on real data; nothing is pretrained.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import MarianConfig, MarianMTModel, PreTrainedTokenizerFast

from export.files import TuneportError
from finetune.config import load_config
from finetune.data import read_data, rows_of
from finetune.train import finetune

SPECIAL = ["<pad>", "</s>", "<unk>"]
PAD, END, _ = range(3)
VOCABULARY = 6000
MODEL = {
    "d_model": 256, "encoder_layers": 3, "decoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 512, "decoder_ffn_dim": 512, "dropout": 0.1,
    "activation_function": "relu",
    "scale_embedding": True, "init_std": 0.0625, "max_position_embeddings": 128,
}  # fmt: skip
"""Fixed sine positions and embeddings scaled to unit variance: a T5 of this size learns far less in as many steps."""
SETTINGS = (
    "max_length=40", "max_target_length=40", "num_train_epochs=2", "learning_rate=1e-3", "warmup_ratio=0.1",
    "per_device_train_batch_size=64", "per_device_eval_batch_size=128", "eval_strategy=no", "save_strategy=no",
    "logging_steps=50", "bf16=false",
)  # fmt: skip
"""Short rows and a small vocabulary make it a matter of minutes on two cores; bf16 costs more than it saves here."""


def build_base(folder: Path, texts: Iterator[str], seed: int = 0) -> None:
    """Save a random Marian and a byte-pair tokenizer of both languages."""
    tokenizer = train_tokenizer(texts)
    torch.manual_seed(seed)
    ends = {"pad_token_id": PAD, "eos_token_id": END, "forced_eos_token_id": END, "decoder_start_token_id": PAD}
    MarianMTModel(MarianConfig(vocab_size=len(tokenizer), **ends, **MODEL)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def train_tokenizer(texts: Iterator[str]) -> PreTrainedTokenizerFast:
    """Train byte-pair pieces that mark where words begin, and put the end token after each text."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Metaspace(), pre_tokenizers.Punctuation()])
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=SPECIAL, show_progress=False)
    )
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", END)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=512
    )


def train_texts(data: str) -> Iterator[str]:
    """Go through the sources and targets of train; validation and test stay unseen."""
    splits = read_data(data, columns={}, required=("source", "target"), optional=(), seed=0).splits
    for _, row in rows_of(splits["train"]):
        yield row["source"]
        yield row["target"]


def main() -> None:
    """Build, train, and print the run's metrics and times as one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", required=True, help="folder with train, validation and test of source and target")
    parser.add_argument("--out", type=Path, required=True, help="run folder; the base model stands beside it")
    parser.add_argument("--set", dest="settings", nargs="*", default=[], help="settings, key=value")
    given = parser.parse_args()
    started = time.perf_counter()
    try:
        base = given.out.with_name(f"{given.out.name}-base")
        build_base(base, train_texts(given.data))
        flags = {"task": "translation", "model": str(base), "data": given.data}
        run = finetune(load_config(settings=[*SETTINGS, *given.settings], flags=flags), given.out, overwrite=True)
    except TuneportError as error:
        sys.exit(str(error))
    seconds = {"train_s": run.train_seconds, "total_s": round(time.perf_counter() - started, 1)}
    sys.stdout.write(json.dumps({"metrics": run.metrics, **seconds, "bf16": run.bf16}) + "\n")


if __name__ == "__main__":
    main()
