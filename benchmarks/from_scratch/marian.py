"""A small Marian for translation, and one byte-pair tokenizer for both languages."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import MarianConfig, MarianMTModel, PreTrainedTokenizerFast

from .recipe import Recipe

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
MAX_LENGTH = 40
SETTINGS = (
    f"max_length={MAX_LENGTH}", f"max_target_length={MAX_LENGTH}", "num_train_epochs=2", "learning_rate=1e-3",
    "warmup_ratio=0.1", "per_device_eval_batch_size=128", "eval_strategy=no", "save_strategy=no", "logging_steps=50",
    "bf16=false",
)  # fmt: skip
"""Short rows keep it to minutes on two cores; bf16 is slower than fp32 for a model this small."""


def save_base(folder: Path, texts: Iterator[str], seed: int = 0) -> None:
    """Save a random Marian model, and its tokenizer, trained on `texts`."""
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


def loss(model: Any, tokenizer: Any, texts: Sequence[str]) -> Any:
    """Return the loss on pairs, source and target by turns."""
    options = {"padding": True, "truncation": True, "max_length": MAX_LENGTH, "return_tensors": "pt"}
    # Marian takes no token types.
    inputs, targets = (tokenizer(each, return_token_type_ids=False, **options) for each in (texts[::2], texts[1::2]))
    return model(**inputs, labels=targets["input_ids"]).loss


MARIAN = Recipe("translation", ("source", "target"), 64, SETTINGS, save_base, MarianMTModel.from_pretrained, loss)
