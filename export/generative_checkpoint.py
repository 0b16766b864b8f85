"""Checkpoints of models that write: what they can do, what they read with, and how much."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoFeatureExtractor, AutoTokenizer, GenerationConfig, PretrainedConfig

from export.files import CheckpointError
from export.manifest import Run, Task

TEXT_TO_TEXT: tuple[Task, ...] = ("translation", "summarization")
GENERATIVE: tuple[Task, ...] = (*TEXT_TO_TEXT, "text-generation", "automatic-speech-recognition")
CAUSAL = ("ForCausalLM", "LMHeadModel")
"""Endings of the names of architectures that are a decoder alone."""
WRITTEN_BY_DEFAULT = 128
LONGEST_PROMPT_BY_DEFAULT = 2048
LONGEST_SOURCE_BY_DEFAULT = 512
WHISPER_PREFIX = 4
"""Tokens that Whisper's answers begin with: start, language, task, no timestamps."""


@dataclass(frozen=True)
class Sizes:
    """In tokens."""

    max_length: int
    """Of an input; of Whisper, positions of its encoder."""
    max_new_tokens: int
    """Written unless a request says otherwise."""
    positions: int
    """The most that can be written; of a decoder alone, input and answer together."""


def tasks_of(config: PretrainedConfig) -> tuple[Task, ...]:
    """Return what a model that writes can have been trained for; empty for one that doesn't."""
    name = (config.architectures or [""])[0]
    if config.model_type == "whisper":
        return ("automatic-speech-recognition",)
    if name == "MarianMTModel":
        return ("translation",)
    if name.endswith("ForConditionalGeneration") and config.is_encoder_decoder:
        return TEXT_TO_TEXT
    return ("text-generation",) if name.endswith(CAUSAL) and not config.is_encoder_decoder else ()


def task_of(config: PretrainedConfig, folder: Path) -> Task | None:
    """Return the one task that a model's architecture leaves; None if it doesn't write, an error if two are left."""
    able = tasks_of(config)
    if len(able) > 1:
        said = f"{folder} ({(config.architectures or [''])[0]}) may be for {' or '.join(able)}"
        raise CheckpointError(said, f"say which: --task {' or --task '.join(able)}")
    return able[0] if able else None


def check_fits(config: PretrainedConfig, task: Task, folder: Path) -> None:
    """Refuse a task that a model's architecture cannot do, where either of the two is about writing."""
    able = tasks_of(config)
    # A Marian model of ours may have learnt to summarize.
    if (task in GENERATIVE or able) and task not in (TEXT_TO_TEXT if "translation" in able else able):
        name = (config.architectures or ["an unnamed architecture"])[0]
        does = f"it does {' or '.join(able)}" if able else "it writes nothing"
        raise CheckpointError(f"{folder} is {name}, which cannot do {task}", f"choose another task or model: {does}")


def load_tokenizer(folder: Path, run: Run | None, *, trust_remote_code: bool) -> Any:
    """Load the tokenizer, fast or slow, set to the run's languages; it pads with its end token if with none."""
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if run and run.config.get("source_language"):
        tokenizer.src_lang = run.config["source_language"]
    return tokenizer


def load_extractor(folder: Path, task: Task) -> Any:
    """Load what turns sound into a spectrogram; None for models that don't hear."""
    return AutoFeatureExtractor.from_pretrained(folder) if task == "automatic-speech-recognition" else None


def generation_of(folder: Path, config: PretrainedConfig) -> GenerationConfig:
    """Read the checkpoint's own generation settings."""
    if (folder / "generation_config.json").is_file():
        return GenerationConfig.from_pretrained(folder)
    return GenerationConfig.from_model_config(config)


def sizes_of(
    folder: Path, config: PretrainedConfig, tokenizer: Any, task: Task, run: Run | None, wanted: int | None
) -> Sizes:
    """Settle how long inputs and answers may be; `wanted` is the user's longest input."""
    settings = generation_of(folder, config)
    limit = _first(config, "max_target_positions", "max_position_embeddings", "n_positions", "n_ctx")
    positions = limit or 2 * LONGEST_SOURCE_BY_DEFAULT
    trained = run.config if run else {}
    new = settings.max_new_tokens or (settings.max_length if settings.max_length not in (None, 20) else None)
    new = (trained.get("max_target_length") if task != "text-generation" else None) or new or WRITTEN_BY_DEFAULT
    if task == "automatic-speech-recognition":
        positions -= WHISPER_PREFIX
        return Sizes(int(config.max_source_positions), min(new, positions), positions)
    if task == "text-generation":
        new = min(new, max(1, positions // 2))
        can, usual = min(positions - new, tokenizer.model_max_length), LONGEST_PROMPT_BY_DEFAULT
    else:
        positions -= 1  # the token that the decoder begins with
        # T5 counts distances, not positions: what it can read is a matter of taste.
        has_limit = hasattr(config, "max_position_embeddings")
        can, usual = min(limit if has_limit and limit else 2**20, tokenizer.model_max_length), LONGEST_SOURCE_BY_DEFAULT
    if wanted and wanted > can:
        raise CheckpointError(
            f"the model takes at most {can} tokens, and {wanted} were asked for", f"lower it to {can}"
        )
    longest = wanted or min(can, trained.get("max_length") or usual)
    return Sizes(longest, min(new, positions), positions)


def _first(config: PretrainedConfig, *names: str) -> int | None:
    values = (getattr(config, name, None) for name in names)
    return next((int(value) for value in values if isinstance(value, int) and value > 0), None)
