"""A Llama of 32 million parameters for text generation, and a byte-level tokenizer."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from .recipe import Recipe

END, PAD = "<|end|>", "<|pad|>"
VOCABULARY_SIZE = 8000
MODEL = {
    "hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 8, "num_attention_heads": 8,
    "num_key_value_heads": 4, "max_position_embeddings": 1024, "tie_word_embeddings": False,
}  # fmt: skip
"""The proportions of Llama 3: its weights in fp32, 127 MB, do not fit into the caches of a processor."""
MAX_LENGTH, NEW_TOKENS = 128, 64
SETTINGS = (
    f"max_length={MAX_LENGTH}", "num_train_epochs=2", "learning_rate=1e-3", "warmup_ratio=0.1",
    "per_device_eval_batch_size=64", "eval_strategy=no", "save_strategy=no", "logging_steps=50",
)  # fmt: skip


def save_base(folder: Path, texts: Iterator[str], seed: int = 0) -> None:
    """Save a random Llama that generates `NEW_TOKENS` tokens by default, and its tokenizer, trained on `texts`."""
    tokenizer = train_tokenizer(texts)
    torch.manual_seed(seed)
    ids = {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **ids, **MODEL))
    model.generation_config.max_new_tokens = NEW_TOKENS
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def train_tokenizer(texts: Iterator[str]) -> PreTrainedTokenizerFast:
    """Train a byte-level byte-pair tokenizer, as Llama 3 has."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE, special_tokens=[END, PAD], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, pad_token=PAD, model_max_length=1024)


def loss(model: Any, tokenizer: Any, texts: Sequence[str]) -> Any:
    """Return the loss on all tokens of texts."""
    options = {"padding": True, "truncation": True, "max_length": MAX_LENGTH, "return_tensors": "pt"}
    inputs = tokenizer(texts, return_token_type_ids=False, **options)
    return model(**inputs, labels=inputs["input_ids"]).loss


LLAMA = Recipe("text-generation", ("text",), 16, SETTINGS, save_base, LlamaForCausalLM.from_pretrained, loss)
