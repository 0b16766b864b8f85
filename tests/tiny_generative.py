"""Tiny seeded random models that write text, each with a fast tokenizer trained on the tests' own words."""

import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from helpers import write_rows
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
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
    WhisperTokenizerFast,
)

NUMBERS = {"eins": "one", "zwei": "two", "drei": "three", "vier": "four", "neun": "nine", "zehn": "ten"}
SPECIAL = ["<pad>", "</s>", "<unk>", "<s>"]
PAD, END, UNKNOWN, BEGIN = range(4)
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
MARKING_TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>{% if message.role == 'assistant' %}"
    "{% generation %}{{ message.content }}</s>{% endgeneration %}{% else %}{{ message.content }}</s>{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def pairs(count: int, seed: int = 3) -> list[dict[str, str]]:
    """German numbers and the English ones."""
    chance = random.Random(seed)
    drawn = [chance.choices(list(NUMBERS), k=chance.randint(4, 7)) for _ in range(count)]
    return [{"source": " ".join(words), "target": " ".join(NUMBERS[word] for word in words)} for words in drawn]


def write_pairs(folder: Path, train: list[dict[str, str]], rest: list[dict[str, str]]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for split, rows in {"train": train, "validation": rest, "test": rest}.items():
        write_rows(folder / f"{split}.jsonl", rows)
    return folder


def word_tokenizer(*, ends: bool = True) -> PreTrainedTokenizerFast:
    """A tokenizer of whole words; `ends` puts `</s>` after each text, as T5's does."""
    tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    words = [*NUMBERS, *NUMBERS.values(), *"translate German to English say it in please :".split()]
    tokenizer.train_from_iterator([words], trainers.WordLevelTrainer(special_tokens=SPECIAL), length=1)
    if ends:
        tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", END)])
    return _wrap(tokenizer)


def byte_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE as GPT-2's, with chat roles as special tokens and no padding token but the end's."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["</s>", "<|system|>", "<|user|>", "<|assistant|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=320, special_tokens=special, initial_alphabet=alphabet)
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", bos_token="</s>")


def _wrap(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", bos_token="<s>"
    )


def seq2seq_config(family: str, vocabulary: int, **changes: Any) -> PretrainedConfig:
    """T5, BART or Marian, two layers each way."""
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
    return save(folder, AutoModelForSeq2SeqLM.from_config(seq2seq_config(family, len(tokenizer), **changes)), tokenizer)


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
    return save(folder, AutoModelForSeq2SeqLM.from_config(config), tokenizer)


def build_causal(folder: Path, family: str, tokenizer: PreTrainedTokenizerFast, **changes: Any) -> Path:
    """Save a random GPT-2 (whose head is tied) or Llama (whose isn't)."""
    ends = {"vocab_size": len(tokenizer), "bos_token_id": tokenizer.bos_token_id, "eos_token_id": 0}
    configs: dict[str, PretrainedConfig] = {
        "gpt2": GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=128, **{**ends, **changes}),
        "llama": LlamaConfig(
            hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
            max_position_embeddings=128, **{**ends, **changes},
        ),
    }  # fmt: skip
    torch.manual_seed(0)
    return save(folder, AutoModelForCausalLM.from_config(configs[family]), tokenizer)


def save(folder: Path, model: PreTrainedModel, processor: Any) -> Path:
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def build_whisper(folder: Path, words: Iterable[str]) -> Path:
    """Save a random Whisper of 16 mel bands that hears a second."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(words, trainers.BpeTrainer(vocab_size=280, initial_alphabet=alphabet))
    end = "<|endoftext|>"
    names = "startoftranscript en de translate transcribe startoflm startofprev nospeech notimestamps".split()
    marks = {name: f"<|{name}|>" for name in names}
    fast = WhisperTokenizerFast(
        tokenizer_object=tokenizer, additional_special_tokens=list(marks.values()), bos_token=end, eos_token=end,
        unk_token=end, pad_token=end,
    )  # fmt: skip
    fast.set_prefix_tokens(language="en", task="transcribe")
    ids = {name: fast.convert_tokens_to_ids(mark) for name, mark in marks.items()}
    torch.manual_seed(0)
    model = WhisperForConditionalGeneration(
        WhisperConfig(
            vocab_size=len(fast), num_mel_bins=16, d_model=32, encoder_layers=2, decoder_layers=2,
            encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=64, decoder_ffn_dim=64,
            max_source_positions=50, max_target_positions=32, decoder_start_token_id=ids["startoftranscript"],
            pad_token_id=fast.pad_token_id, eos_token_id=fast.eos_token_id, bos_token_id=fast.bos_token_id,
            suppress_tokens=None, begin_suppress_tokens=None, dropout=0.0,
        )
    )  # fmt: skip
    settings = model.generation_config
    settings._from_model_config = False
    settings.is_multilingual, settings.no_timestamps_token_id = True, ids["notimestamps"]
    settings.lang_to_id = {marks["en"]: ids["en"], marks["de"]: ids["de"]}
    settings.task_to_id = {task: ids[task] for task in ("translate", "transcribe")}
    extractor = WhisperFeatureExtractor(feature_size=16, chunk_length=1)
    return save(folder, model, WhisperProcessor(extractor, fast))
