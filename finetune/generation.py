"""What models that write text need: token ids to begin and end with, and generation settings that hold together."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from transformers import GenerationConfig, PreTrainedModel

from export.files import CheckpointError
from finetune.config import FinetuneConfig

SAMPLING = ("temperature", "top_p", "top_k", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff")
BEAMS = ("early_stopping", "length_penalty")
RETURNS = ("return_dict_in_generate", "output_scores", "output_attentions", "output_hidden_states", "output_logits")
ONE_ANSWER = ("do_sample", "num_return_sequences", "max_new_tokens", "min_new_tokens")
TOKENS = (
    "decoder_start_token_id", "bos_token_id", "eos_token_id", "pad_token_id", "forced_bos_token_id",
    "forced_eos_token_id", "suppress_tokens", "begin_suppress_tokens", "bad_words_ids",
)  # fmt: skip
"""Generation settings that are token ids, or lists of them."""


def prepare_to_write(model: PreTrainedModel, tokenizer: Any, source: str, config: FinetuneConfig) -> None:
    """Make an encoder–decoder generate as it is evaluated: one answer, no sampling, with the settings' beams.

    The settings stay with the checkpoint, so that whoever loads it generates what was measured. Raises
    CheckpointError where there is no token to begin or to end with, or an id lies beyond the vocabulary.
    """
    settings = model.generation_config
    settings._from_model_config = False  # or transformers would derive it anew from config.json
    _reset(settings, ONE_ANSWER)
    settings.num_beams, settings.max_length = config.num_beams, config.max_target_length
    settings.min_length = settings.min_length if settings.min_length < config.max_target_length else 0
    settings.pad_token_id = model.config.pad_token_id = tokenizer.pad_token_id
    if tokenizer.eos_token_id is None:
        raise CheckpointError(f"{source} has a tokenizer without an end token", "set eos_token in its configuration")
    settings.eos_token_id = model.config.eos_token_id = tokenizer.eos_token_id
    # T5 and Marian begin with padding where nothing else is said.
    choices = (settings.decoder_start_token_id, model.config.decoder_start_token_id, tokenizer.pad_token_id)
    begin = next((token for token in choices if token is not None), None)
    settings.decoder_start_token_id = model.config.decoder_start_token_id = begin
    make_consistent(model)
    _check_tokens(settings, model, source)


def make_consistent(model: PreTrainedModel) -> None:
    """Drop generation settings that contradict each other: transformers would refuse to save the checkpoint."""
    settings = model.generation_config
    if not settings.do_sample:
        _reset(settings, SAMPLING)
    if settings.num_beams == 1:
        _reset(settings, BEAMS)
    _reset(settings, RETURNS)
    # Older checkpoints keep such settings in config.json, too, from where saving would bring them back.
    for name in model.config._get_non_default_generation_parameters():
        setattr(model.config, name, None)


def texts_of(ids: npt.NDArray[Any], tokenizer: Any) -> list[str]:
    """Turn generated token ids, int (rows, tokens) padded with -100, into texts without special tokens."""
    padded = np.where(ids < 0, tokenizer.pad_token_id, ids)
    return [text.strip() for text in tokenizer.batch_decode(padded, skip_special_tokens=True)]


def _check_tokens(settings: GenerationConfig, model: PreTrainedModel, source: str) -> None:
    vocabulary = model.get_output_embeddings().weight.shape[0]
    for name in TOKENS:
        for token in _ids(getattr(settings, name, None)):
            if not 0 <= token < vocabulary:
                raise CheckpointError(
                    f"{source} has {name} = {token} and a vocabulary of {vocabulary}",
                    "correct it in config.json or generation_config.json",
                )


def _ids(value: Any) -> Iterator[int]:
    if isinstance(value, list | tuple):
        for each in value:
            yield from _ids(each)
    elif value is not None:
        yield int(value)


def _reset(settings: GenerationConfig, names: tuple[str, ...]) -> None:
    defaults = GenerationConfig()
    for name in names:
        setattr(settings, name, getattr(defaults, name))
