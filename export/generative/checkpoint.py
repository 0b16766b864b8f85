"""Open the tokenizer and the feature extractor of a generative checkpoint, and find its limits on lengths."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoFeatureExtractor, AutoTokenizer, GenerationConfig, PretrainedConfig

from tuneport.errors import CheckpointError
from tuneport.modeling.positions import declared_positions, position_limit
from tuneport.schema.run import Run
from tuneport.tasks import task_spec

DEFAULT_NEW_TOKENS = 128
DEFAULT_PROMPT_TOKENS = 2048
DEFAULT_SOURCE_TOKENS = 512
TRANSFORMERS_MAX_LENGTH = 20
"""The default `max_length` of transformers' GenerationConfig, which says nothing about the model."""
WHISPER_PREFIX = 4
"""Tokens before the text in Whisper's output: start, language, task, no timestamps."""


@dataclass(frozen=True)
class GenerationLimits:
    """Limits on lengths, in tokens."""

    max_length: int
    """Of an input; of Whisper, positions of its encoder."""
    max_new_tokens: int
    """Generated unless a request says otherwise."""
    positions: int
    """Upper limit of generated tokens; of decoder-only models, of prompt and generated tokens together."""


def load_tokenizer(folder: Path, run: Run | None, *, trust_remote_code: bool) -> Any:
    """Load the tokenizer, fast or slow, set to the run's source language; without a padding token it pads with EOS."""
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if run and run.config.get("source_language"):
        tokenizer.src_lang = run.config["source_language"]
    return tokenizer


def load_extractor(folder: Path, task: str) -> Any:
    """Load the feature extractor that converts audio to a spectrogram; None for models of text."""
    return AutoFeatureExtractor.from_pretrained(folder) if _is_speech(task) else None


def generation_config(folder: Path, config: PretrainedConfig) -> GenerationConfig:
    """Read the checkpoint's own generation settings."""
    if (folder / "generation_config.json").is_file():
        return GenerationConfig.from_pretrained(folder)
    return GenerationConfig.from_model_config(config)


def generation_limits(
    folder: Path, config: PretrainedConfig, tokenizer: Any, task: str, run: Run | None, requested: int | None
) -> GenerationLimits:
    """Return the limits of a model; `requested` is the longest input that the user asked for.

    Raises CheckpointError if the model cannot take inputs of that length.
    """
    positions = declared_positions(config) or 2 * DEFAULT_SOURCE_TOKENS
    new_tokens = _new_tokens(generation_config(folder, config), task, run)
    if _is_speech(task):
        positions -= WHISPER_PREFIX
        return GenerationLimits(int(config.max_source_positions), min(new_tokens, positions), positions)
    if config.is_encoder_decoder:
        positions -= 1  # the token that the decoder begins with
        # Relative positions, such as T5's, have no limit.
        limit, default = position_limit(config) or tokenizer.model_max_length, DEFAULT_SOURCE_TOKENS
    else:
        new_tokens = min(new_tokens, max(1, positions // 2))
        limit, default = positions - new_tokens, DEFAULT_PROMPT_TOKENS
    limit = min(limit, tokenizer.model_max_length)
    if requested and requested > limit:
        raise CheckpointError(
            f"the model takes at most {limit} tokens, and {requested} were asked for", f"lower it to {limit}"
        )
    trained_length = run.config.get("max_length") if run else None
    max_length = requested or min(limit, trained_length or default)
    return GenerationLimits(max_length, min(new_tokens, positions), positions)


def _new_tokens(settings: GenerationConfig, task: str, run: Run | None) -> int:
    """Return how many tokens to generate: the longest target of the run, or the checkpoint's own setting."""
    has_target = "max_target_length" in task_spec(task).settings
    trained = run.config.get("max_target_length") if run and has_target else None
    own = settings.max_new_tokens or (settings.max_length if settings.max_length != TRANSFORMERS_MAX_LENGTH else None)
    return int(trained or own or DEFAULT_NEW_TOKENS)


def _is_speech(task: str) -> bool:
    return task_spec(task).auto_model == "AutoModelForSpeechSeq2Seq"
