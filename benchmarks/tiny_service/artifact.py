"""The benchmark's model: a seeded BERT of one layer, about 4 MB, and texts of 16 tokens for it."""

import random
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

from tuneport.stages.export.config import ExportConfig
from tuneport.stages.export.pipeline import export

SEED = 3
LABELS = ("low", "middle", "high")
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
WORDS = tuple(f"word{number}" for number in range(15_000))
"""Nearly all of the model's 4 MB are their embeddings."""
WORDS_A_TEXT = 14
"""With [CLS] and [SEP] a text has 16 tokens."""
HIDDEN_SIZE = 64
MAX_LENGTH = 128


def build_tiny_artifact(folder: Path) -> Path:
    """Export the model in fp32; returns the artifact's folder, `folder`/tiny."""
    checkpoint, artifact = folder / "checkpoint", folder / "tiny"
    _save_checkpoint(checkpoint)
    export(ExportConfig(checkpoint=checkpoint, name="tiny", variants=("fp32",)), artifact)
    return artifact


def tiny_texts(count: int) -> list[str]:
    """Return texts of 16 tokens, special tokens included."""
    chance = random.Random(SEED)
    return [" ".join(chance.choices(WORDS, k=WORDS_A_TEXT)) for _ in range(count)]


def _save_checkpoint(folder: Path) -> None:
    tokenizer = Tokenizer(models.WordPiece({word: i for i, word in enumerate((*SPECIAL, *WORDS))}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        model_max_length=MAX_LENGTH,
    ).save_pretrained(folder)  # fmt: skip
    torch.manual_seed(SEED)
    config = BertConfig(
        vocab_size=len(SPECIAL) + len(WORDS), hidden_size=HIDDEN_SIZE, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=2 * HIDDEN_SIZE, max_position_embeddings=MAX_LENGTH, pad_token_id=0, initializer_range=0.5,
        id2label=dict(enumerate(LABELS)), label2id={label: i for i, label in enumerate(LABELS)},
    )  # fmt: skip
    BertForSequenceClassification(config).eval().save_pretrained(folder)
