"""Trains a small translation model from sentence pairs alone: tokenizer and random Marian first, then `finetune`.

    python -m tuneport.stages.benchmarks.translation_from_scratch --data DIR --out DIR [--minutes 3] \
        [--set num_train_epochs=6 …]

Trains for two epochs or, with `--minutes`, as many steps as these are expected to take. The answers of a model that has
hardly been trained are near ties, on which two engines need not agree: give a peer of the engine benchmark a model that
has had an epoch at least. Shows that training, generation and scoring of the task `translation` work together on real
data. Prints metrics (BLEU and chrF as shares from 0 to 1) and times as one JSON line.
"""

import argparse
import itertools
import json
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, MarianConfig, MarianMTModel, PreTrainedTokenizerFast

from tuneport.data.reader import read_data
from tuneport.data.rows import numbered_rows
from tuneport.errors import TuneportError
from tuneport.stages.finetune.config import load_config
from tuneport.stages.finetune.train import finetune

SPECIAL_TOKENS = ["</s>", "<unk>"]
END_ID = 0
VOCABULARY_SIZE = 6000
"""With `<pad>`, which is the last token, as in the models of Marian: CTranslate2 cuts the last one off."""
MODEL = {
    "d_model": 256, "encoder_layers": 3, "decoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 512, "decoder_ffn_dim": 512, "dropout": 0.1,
    "activation_function": "relu",
    "scale_embedding": True, "init_std": 0.0625, "max_position_embeddings": 128,
}  # fmt: skip
"""Sinusoidal positions, and embeddings scaled to unit variance: a T5 of this size learns much less in as many steps."""
MAX_LENGTH, BATCH_SIZE, TRIAL_STEPS = 40, 64, 5
SETTINGS = (
    f"max_length={MAX_LENGTH}", f"max_target_length={MAX_LENGTH}", "num_train_epochs=2", "learning_rate=1e-3",
    "warmup_ratio=0.1", f"per_device_train_batch_size={BATCH_SIZE}", "per_device_eval_batch_size=128",
    "eval_strategy=no", "save_strategy=no", "logging_steps=50", "bf16=false",
)  # fmt: skip
"""Short rows keep it to minutes on two cores; bf16 is slower than fp32 for a model this small."""


def build_base(folder: Path, texts: Iterator[str], seed: int = 0) -> None:
    """Save a random Marian model, and one byte-pair tokenizer for both languages, trained on `texts`."""
    tokenizer = train_tokenizer(texts)
    torch.manual_seed(seed)
    pad_id = tokenizer.pad_token_id
    ids = {
        "pad_token_id": pad_id,
        "eos_token_id": END_ID,
        "forced_eos_token_id": END_ID,
        "decoder_start_token_id": pad_id,
    }
    MarianMTModel(MarianConfig(vocab_size=len(tokenizer), **ids, **MODEL)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def train_tokenizer(texts: Iterator[str]) -> PreTrainedTokenizerFast:
    """Train a byte-pair tokenizer whose pieces mark word starts, and which appends the end token to each text."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Metaspace(), pre_tokenizers.Punctuation()])
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY_SIZE - 1, special_tokens=SPECIAL_TOKENS, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens(["<pad>"])
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", END_ID)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=512
    )


def training_texts(data: str) -> Iterator[str]:
    """Yield sources and targets of the train split; the tokenizer must not see validation and test."""
    splits = read_data(data, columns={}, required=("source", "target"), optional=(), seed=0).splits
    for _, row in numbered_rows(splits["train"]):
        yield row["source"]
        yield row["target"]


def steps_within(seconds: float, base: Path, texts: Iterator[str]) -> int:
    """Return how many steps of training take about so many seconds, by the time of a few of them."""
    model = MarianMTModel.from_pretrained(base)
    tokenizer = AutoTokenizer.from_pretrained(base)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    options = {
        "padding": True,
        "truncation": True,
        "max_length": MAX_LENGTH,
        "return_tensors": "pt",
        "return_token_type_ids": False,  # Marian takes none
    }
    took = []
    for _ in range(1 + TRIAL_STEPS):
        pairs = list(itertools.islice(texts, 2 * BATCH_SIZE))  # source and target by turns
        inputs, targets = (tokenizer(each, **options) for each in (pairs[::2], pairs[1::2]))
        began = time.perf_counter()
        model(**inputs, labels=targets["input_ids"]).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        took.append(time.perf_counter() - began)
    return max(1, round(seconds / statistics.median(took[1:])))


def main() -> None:
    """Build the base model, train it, and print metrics and times."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", required=True, help="folder with train, validation and test of source and target")
    parser.add_argument("--out", type=Path, required=True, help="run folder; the base model is written beside it")
    parser.add_argument("--minutes", type=float, help="of training, about; by default two epochs")
    parser.add_argument("--set", dest="settings", nargs="*", default=[], help="fine-tuning settings, key=value")
    options = parser.parse_args()
    started = time.perf_counter()
    try:
        base = options.out.with_name(f"{options.out.name}-base")
        build_base(base, training_texts(options.data))
        settings = [*SETTINGS]
        if options.minutes:
            steps = steps_within(60 * options.minutes, base, training_texts(options.data))
            settings.append(f"max_steps={steps}")
        flags = {"task": "translation", "model": str(base), "data": options.data}
        run = finetune(load_config(settings=[*settings, *options.settings], flags=flags), options.out, overwrite=True)
    except TuneportError as error:
        sys.exit(str(error))
    seconds = {"train_s": run.train_seconds, "total_s": round(time.perf_counter() - started, 1)}
    sys.stdout.write(json.dumps({"metrics": run.metrics, **seconds, "precision": run.training.precision}) + "\n")


if __name__ == "__main__":
    main()
