"""Small untrained generative models for the tutorials, each with a tokenizer of its own data, and recordings."""

import json
import random
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    LlamaConfig,
    LlamaForCausalLM,
    MarianConfig,
    MarianMTModel,
    PreTrainedTokenizerFast,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperProcessor,
    WhisperTokenizerFast,
)

PAD, END = "<pad>", "</s>"
SEQ2SEQ = {
    "d_model": 128, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 256, "decoder_ffn_dim": 256, "max_position_embeddings": 128,
    "pad_token_id": 0, "eos_token_id": 1, "forced_eos_token_id": None, "dropout": 0.0,
    "scale_embedding": True, "init_std": 0.09,
}  # fmt: skip
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
KEYS = {
    "1": (697, 1209), "2": (697, 1336), "3": (697, 1477), "4": (770, 1209), "5": (770, 1336), "6": (770, 1477),
    "7": (852, 1209), "8": (852, 1336), "9": (852, 1477), "0": (941, 1336),
}  # fmt: skip
"""Key of a telephone → its two frequencies in Hz (ITU-T Q.23)."""
RATE = 16_000


def read_json(line: str) -> Any:
    """Parse a line of a JSONL file."""
    return json.loads(line)


def word_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """Return a tokenizer of the words of `texts` that appends the end token."""
    tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.train_from_iterator(texts, trainers.WordLevelTrainer(special_tokens=[PAD, END, "<unk>"]))
    tokenizer.post_processor = processors.TemplateProcessing(single=f"$A {END}", special_tokens=[(END, 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=PAD, eos_token=END, unk_token="<unk>")


def byte_tokenizer(texts: Iterable[str], special: list[str]) -> Tokenizer:
    """Return a byte-level BPE of `texts`."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=512, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def marian(folder: Path, texts: Iterable[str]) -> None:
    """Save a random Marian."""
    tokenizer = word_tokenizer(texts)
    config = MarianConfig(vocab_size=len(tokenizer), decoder_start_token_id=0, **SEQ2SEQ)
    save(folder, MarianMTModel, config, tokenizer)


def bart(folder: Path, texts: Iterable[str]) -> None:
    """Save a random BART."""
    tokenizer = word_tokenizer(texts)
    config = BartConfig(vocab_size=len(tokenizer), decoder_start_token_id=1, bos_token_id=1, **SEQ2SEQ)
    save(folder, BartForConditionalGeneration, config, tokenizer)


def llama(folder: Path, texts: Iterable[str]) -> None:
    """Save a random Llama with a chat template."""
    roles = ["<|system|>", "<|user|>", "<|assistant|>"]
    trained = byte_tokenizer(texts, [PAD, END, *roles])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=trained, pad_token=PAD, eos_token=END, bos_token=END)
    tokenizer.chat_template = CHAT_TEMPLATE
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=128, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=128, pad_token_id=0, eos_token_id=1, bos_token_id=1,
    )  # fmt: skip
    save(folder, LlamaForCausalLM, config, tokenizer)


def whisper(folder: Path, texts: Iterable[str]) -> None:
    """Save a random Whisper that transcribes recordings of up to two seconds."""
    end = "<|endoftext|>"
    names = "startoftranscript en translate transcribe startoflm startofprev nospeech notimestamps".split()
    marks = [f"<|{name}|>" for name in names]
    tokenizer = WhisperTokenizerFast(
        tokenizer_object=byte_tokenizer(texts, []), additional_special_tokens=marks, bos_token=end, eos_token=end,
        unk_token=end, pad_token=end,
    )  # fmt: skip
    tokenizer.set_prefix_tokens(language="en", task="transcribe")
    ids = {mark: tokenizer.convert_tokens_to_ids(mark) for mark in [*marks, end]}
    config = WhisperConfig(
        vocab_size=len(tokenizer), num_mel_bins=80, d_model=128, encoder_layers=2, decoder_layers=2,
        encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=256, decoder_ffn_dim=256,
        max_source_positions=100, max_target_positions=32, decoder_start_token_id=ids["<|startoftranscript|>"],
        pad_token_id=ids[end], eos_token_id=ids[end], bos_token_id=ids[end], suppress_tokens=None,
        begin_suppress_tokens=None, dropout=0.0,
    )  # fmt: skip
    torch.manual_seed(0)
    model = WhisperForConditionalGeneration(config)
    settings = model.generation_config
    settings.is_multilingual, settings.no_timestamps_token_id = True, ids["<|notimestamps|>"]
    settings.lang_to_id = {"<|en|>": ids["<|en|>"]}
    settings.task_to_id = {task: ids[f"<|{task}|>"] for task in ("translate", "transcribe")}
    model.save_pretrained(folder)
    WhisperProcessor(WhisperFeatureExtractor(chunk_length=2), tokenizer).save_pretrained(folder)


def telephone_keys(folder: Path, count: int) -> Iterator[dict[str, str]]:
    """Write recordings of three keys each, with noise, and yield their rows."""
    folder.mkdir(parents=True, exist_ok=True)
    generator, noise = random.Random(0), np.random.default_rng(0)
    for number in range(count):
        keys = generator.choices(list(KEYS), k=3)
        wave = np.concatenate([part for key in keys for part in (tone(KEYS[key]), np.zeros(RATE // 10))])
        wave += noise.normal(0, 0.02, len(wave))
        soundfile.write(folder / f"{number:03}.wav", wave.astype(np.float32), RATE)
        yield {"audio": f"{number:03}.wav", "target": " ".join(keys)}


def tone(frequencies: tuple[int, int], seconds: float = 0.3) -> np.ndarray[Any, Any]:
    """Return the sound of a key, float64 (samples,)."""
    at = np.arange(int(seconds * RATE)) / RATE
    return np.sum([0.3 * np.sin(2 * np.pi * hertz * at) for hertz in frequencies], axis=0)


def save(folder: Path, architecture: Any, config: Any, tokenizer: PreTrainedTokenizerFast) -> None:
    """Save a random model with its tokenizer."""
    torch.manual_seed(0)
    architecture(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
