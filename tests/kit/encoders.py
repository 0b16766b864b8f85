"""Seeded random encoders of a few kilobytes: a base model of every family, and a BERT classifier that is sure."""

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoModel,
    BertConfig,
    BertForSequenceClassification,
    BertTokenizerFast,
    DebertaV2Config,
    DistilBertConfig,
    ElectraConfig,
    ModernBertConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    RobertaConfig,
    XLNetConfig,
)

from .texts import SEED, random_texts
from .tokenizers import byte_level_encoder_tokenizer, word_piece, word_piece_tokenizer

FAMILIES = ("bert", "roberta", "distilbert", "deberta-v2", "modernbert", "electra", "xlnet")
LABELS = ("calm", "loud", "odd")
MAX_LENGTH = 64
"""Tokens; base models of a family have positions for two more."""
SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": MAX_LENGTH + 2,
    "pad_token_id": 0,
}


def tiny_encoder(folder: Path, family: str = "bert") -> Path:
    """Save a two-layer random base model of a family and its tokenizer; returns the folder."""
    is_byte_level = family in ("roberta", "modernbert")
    tokenizer = byte_level_encoder_tokenizer(family) if is_byte_level else word_piece_tokenizer(family)
    torch.manual_seed(SEED)
    AutoModel.from_config(_config(family, len(tokenizer))).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def build_checkpoint(
    folder: Path,
    labels: Sequence[str] = LABELS,
    architecture: type = BertForSequenceClassification,
    num_hidden_layers: int = 2,
) -> None:
    """Save a random BERT of an architecture; a classifier's logits spread evenly over the labels."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = BertTokenizerFast(tokenizer_object=word_piece(), do_lower_case=True, model_max_length=MAX_LENGTH)
    torch.manual_seed(SEED)
    sizes = {**SIZES, "max_position_embeddings": MAX_LENGTH, "vocab_size": len(tokenizer)}
    sizes["num_hidden_layers"] = num_hidden_layers
    config = BertConfig(
        **sizes,
        initializer_range=0.15,  # the usual 0.02 gives every text nearly the same answer
        id2label=dict(enumerate(labels)),
        label2id={label: i for i, label in enumerate(labels)},
    )
    model = architecture(config).eval()
    if architecture is BertForSequenceClassification:
        spread_logits(model, tokenizer)
    model.save_pretrained(folder, safe_serialization=True)
    tokenizer.save_pretrained(folder)


def spread_logits(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, deviation: float = 4.0) -> None:
    """Scale and shift a classifier's last layer so that each logit has mean 0 and this deviation over many texts."""
    texts = [text for text, _ in zip(random_texts(SEED + 1), range(300), strict=False)]
    feeds = tokenizer(texts, truncation=True, max_length=MAX_LENGTH, padding=True, return_tensors="pt")
    names = inspect.signature(model.forward).parameters.keys() & feeds.keys()
    head = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    with torch.no_grad():
        logits = model.eval()(**{name: feeds[name] for name in names}).logits.flatten(0, -2)
        scale = deviation / logits.std(0)
        head.weight.mul_(scale[:, None])
        head.bias.sub_(logits.mean(0)).mul_(scale)


def _config(family: str, vocab_size: int) -> PretrainedConfig:
    sizes = {**SIZES, "vocab_size": vocab_size}
    if family == "roberta":
        return RobertaConfig(**sizes, type_vocab_size=1, bos_token_id=2, eos_token_id=3)
    if family == "distilbert":
        return DistilBertConfig(vocab_size=vocab_size, dim=32, n_layers=2, n_heads=2, hidden_dim=64, pad_token_id=0)
    if family == "deberta-v2":
        return DebertaV2Config(
            **sizes, type_vocab_size=0, relative_attention=True, pos_att_type=["p2c", "c2p"], position_buckets=16
        )
    if family == "modernbert":
        return ModernBertConfig(
            **sizes, cls_token_id=2, sep_token_id=3, bos_token_id=2, eos_token_id=3, local_attention=16,
            reference_compile=False,
        )  # fmt: skip
    if family == "xlnet":
        return XLNetConfig(vocab_size=vocab_size, d_model=32, n_layer=2, n_head=2, d_inner=64, pad_token_id=0)
    if family == "electra":
        return ElectraConfig(**sizes, embedding_size=16)
    return BertConfig(**sizes)
