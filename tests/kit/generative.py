"""Seeded random generative models of a few kilobytes: T5, BART, Marian, mBART, GPT-2, Llama, Whisper."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    BartConfig,
    GPT2Config,
    LlamaConfig,
    MarianConfig,
    MBartConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    T5Config,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperProcessor,
)

from .encoders import MAX_LENGTH
from .texts import NUMBERS, SEED
from .tokenizers import BEGIN, END, PAD, llama_tokenizer, whisper_tokenizer, word_tokenizer

MAX_NEW_TOKENS = 24
"""Of a request that does not say how many: random models hardly ever end a text, and every golden case is one."""


def seq2seq_config(family: str, vocabulary: int, **changes: Any) -> PretrainedConfig:
    """Return the configuration of a T5, BART or Marian of two layers each way."""
    if family == "t5":
        sizes = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "dropout_rate": 0.0}
        return T5Config(**{"vocab_size": vocabulary, **sizes, "decoder_start_token_id": PAD, **changes})
    sizes = {
        "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
        "decoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "dropout": 0.0,
        "max_position_embeddings": 128, "pad_token_id": PAD, "eos_token_id": END, "bos_token_id": BEGIN,
        "forced_eos_token_id": None,
    }  # fmt: skip
    kind, begin = (BartConfig, END) if family == "bart" else (MarianConfig, PAD)
    return kind(vocab_size=vocabulary, **{**sizes, "decoder_start_token_id": begin, **changes})


def build_seq2seq(folder: Path, family: str, *, ends: bool = True, **changes: Any) -> Path:
    """Save a random encoder–decoder."""
    tokenizer = word_tokenizer(ends=ends)
    torch.manual_seed(0)
    model = AutoModelForSeq2SeqLM.from_config(seq2seq_config(family, len(tokenizer), **changes))
    return save(folder, brief(model), tokenizer)


def build_mbart(folder: Path, kind: type[PreTrainedTokenizerFast]) -> Path:
    """Save a random mBART with one of the two tokenizers that mark languages, each in its own way."""
    folder.mkdir(parents=True)
    vocabulary = {word: i for i, word in enumerate(["<s>", "<pad>", "</s>", "<unk>", *NUMBERS, *NUMBERS.values()])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.save(str(folder / "tokenizer.json"))
    tokenizer = kind(tokenizer_file=str(folder / "tokenizer.json"))
    config = MBartConfig(
        vocab_size=len(tokenizer), d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=64, decoder_ffn_dim=64, max_position_embeddings=64,
        decoder_start_token_id=2, forced_eos_token_id=None,
    )  # fmt: skip
    torch.manual_seed(0)
    return save(folder, brief(AutoModelForSeq2SeqLM.from_config(config)), tokenizer)


def build_causal(folder: Path, family: str, tokenizer: PreTrainedTokenizerFast, **changes: Any) -> Path:
    """Save a random GPT-2, whose head is tied to its embeddings, or Llama, whose head is not."""
    ends = {"vocab_size": len(tokenizer), "bos_token_id": tokenizer.bos_token_id, "eos_token_id": 0}
    configs: dict[str, PretrainedConfig] = {
        "gpt2": GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=128, **{**ends, **changes}),
        "llama": LlamaConfig(
            hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
            max_position_embeddings=128, **{**ends, **changes},
        ),
    }  # fmt: skip
    torch.manual_seed(0)
    return save(folder, brief(AutoModelForCausalLM.from_config(configs[family])), tokenizer)


def build_decoder(folder: Path, family: str) -> Path:
    """Save a random base model of a family of decoders, without a head, and a tokenizer with padding."""
    tokenizer = llama_tokenizer()
    sizes: dict[str, Any] = {
        "vocab_size": len(tokenizer), "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 1, "intermediate_size": 64, "head_dim": 16, "max_position_embeddings": MAX_LENGTH,
        "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 1,
    }  # fmt: skip
    torch.manual_seed(SEED)
    return save(folder, AutoModel.from_config(AutoConfig.for_model(family, **sizes)), tokenizer)


def nested_byte_level(folder: Path) -> Path:
    """Save a base Llama whose tokenizer has two pre-tokenizers, one after the other."""
    tokenizer = llama_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=MAX_LENGTH, pad_token_id=0, eos_token_id=1,
    )  # fmt: skip
    torch.manual_seed(SEED)
    return save(folder, AutoModel.from_config(config), tokenizer)


def build_whisper(folder: Path, words: Iterable[str]) -> Path:
    """Save a random Whisper of 16 mel bands that transcribes one second."""
    tokenizer = whisper_tokenizer(words)
    ids = {mark: tokenizer.convert_tokens_to_ids(mark) for mark in tokenizer.additional_special_tokens}
    config = WhisperConfig(
        vocab_size=len(tokenizer), num_mel_bins=16, d_model=32, encoder_layers=2, decoder_layers=2,
        encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=64, decoder_ffn_dim=64,
        max_source_positions=50, max_target_positions=32, decoder_start_token_id=ids["<|startoftranscript|>"],
        pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id, bos_token_id=tokenizer.bos_token_id,
        suppress_tokens=None, begin_suppress_tokens=None, dropout=0.0,
    )  # fmt: skip
    torch.manual_seed(0)
    model = WhisperForConditionalGeneration(config)
    settings = model.generation_config
    settings._from_model_config = False
    settings.is_multilingual, settings.no_timestamps_token_id = True, ids["<|notimestamps|>"]
    settings.lang_to_id = {mark: ids[mark] for mark in ("<|en|>", "<|de|>")}
    settings.task_to_id = {task: ids[f"<|{task}|>"] for task in ("translate", "transcribe")}
    return save(folder, model, WhisperProcessor(WhisperFeatureExtractor(feature_size=16, chunk_length=1), tokenizer))


def brief(model: PreTrainedModel) -> PreTrainedModel:
    """Let a model generate few tokens by default."""
    assert model.generation_config is not None
    model.generation_config.max_new_tokens = MAX_NEW_TOKENS
    return model


def save(folder: Path, model: PreTrainedModel, processor: Any) -> Path:
    """Save a model with its tokenizer or processor; returns the folder."""
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
