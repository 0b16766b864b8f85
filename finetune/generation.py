"""Prepares generative models: the tokens that generation starts and ends with, and consistent generation settings."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from transformers import GenerationConfig, PreTrainedModel

from tuneport.errors import CheckpointError

from .config import FinetuneConfig

SAMPLING = ("temperature", "top_p", "top_k", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff")
BEAMS = ("early_stopping", "length_penalty")
RETURNS = ("return_dict_in_generate", "output_scores", "output_attentions", "output_hidden_states", "output_logits")
ANSWERS = ("do_sample", "num_return_sequences", "max_new_tokens", "min_new_tokens")
"""Settings of how many answers there are, and how long they may be."""
TOKENS = (
    "decoder_start_token_id", "bos_token_id", "eos_token_id", "pad_token_id", "forced_bos_token_id",
    "forced_eos_token_id", "suppress_tokens", "begin_suppress_tokens", "bad_words_ids",
)  # fmt: skip
"""Generation settings that are token ids, or lists of them."""


def configure_generation(model: PreTrainedModel, tokenizer: Any, source: str, config: FinetuneConfig) -> None:
    """Configure an encoder–decoder to generate one answer without sampling, with the beams and length of the settings.

    The generation settings are saved with the checkpoint, so that it generates by default what was evaluated. Raises
    CheckpointError without a start or an end token, or for a token id outside of the vocabulary.
    """
    settings = model.generation_config
    settings._from_model_config = False  # or transformers would derive it from config.json again
    _reset(settings, ANSWERS)
    settings.num_beams, settings.max_length = config.num_beams, config.max_target_length
    settings.min_length = settings.min_length if settings.min_length < config.max_target_length else 0
    settings.pad_token_id = model.config.pad_token_id = tokenizer.pad_token_id
    if tokenizer.eos_token_id is None:
        raise CheckpointError(f"{source} has a tokenizer without an end token", "set eos_token in its configuration")
    settings.eos_token_id = model.config.eos_token_id = tokenizer.eos_token_id
    # T5 and Marian start with the padding token unless their configuration names another.
    candidates = (settings.decoder_start_token_id, model.config.decoder_start_token_id, tokenizer.pad_token_id)
    start = next((token for token in candidates if token is not None), None)
    settings.decoder_start_token_id = model.config.decoder_start_token_id = start
    drop_conflicting_settings(model)
    _check_tokens(settings, model, source)


def drop_conflicting_settings(model: PreTrainedModel) -> None:
    """Reset generation settings that contradict others, with which transformers refuses to save a checkpoint."""
    settings = model.generation_config
    if not settings.do_sample:
        _reset(settings, SAMPLING)
    if settings.num_beams == 1:
        _reset(settings, BEAMS)
    _reset(settings, RETURNS)
    # Older checkpoints have such settings in config.json too, and saving would copy them from there.
    for name in model.config._get_non_default_generation_parameters():
        setattr(model.config, name, None)


def decode_texts(ids: npt.NDArray[Any], tokenizer: Any) -> list[str]:
    """Decode generated token ids, int (rows, tokens) padded with `IGNORED`, to texts without special tokens."""
    padded = np.where(ids < 0, tokenizer.pad_token_id, ids)
    return [text.strip() for text in tokenizer.batch_decode(padded, skip_special_tokens=True)]


def _check_tokens(settings: GenerationConfig, model: PreTrainedModel, source: str) -> None:
    vocabulary = model.get_output_embeddings().weight.shape[0]
    for name in TOKENS:
        for token in _token_ids(getattr(settings, name, None)):
            if not 0 <= token < vocabulary:
                raise CheckpointError(
                    f"{source} has {name} = {token} and a vocabulary of {vocabulary}",
                    "correct it in config.json or generation_config.json",
                )


def _token_ids(value: Any) -> Iterator[int]:
    """Yield the token ids of a setting: a number, a list, a list of lists, or None."""
    if isinstance(value, list | tuple):
        for item in value:
            yield from _token_ids(item)
    elif value is not None:
        yield int(value)


def _reset(settings: GenerationConfig, names: tuple[str, ...]) -> None:
    defaults = GenerationConfig()
    for name in names:
        setattr(settings, name, getattr(defaults, name))
