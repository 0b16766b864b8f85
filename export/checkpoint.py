"""Open a checkpoint: a run folder of `tuneport finetune`, or any folder that transformers saved."""

import functools
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoModelForSequenceClassification, PretrainedConfig, PreTrainedTokenizerFast

from tuneport.errors import CheckpointError
from tuneport.modeling.heads import PooledClassifier, PooledConfig, encoder_config
from tuneport.modeling.identity import hash_checkpoint
from tuneport.modeling.positions import declared_positions, position_limit
from tuneport.schema.loading import load_run
from tuneport.schema.run import CHECKPOINT, RUN, Run
from tuneport.tasks import FamilyName, task_spec

from .architectures import check_architecture, infer_task
from .checkpoint_files import check_files, check_tokenizer, load_fast_tokenizer, loading_error
from .facts import Facts
from .generative import checkpoint as generative

DEFAULT_MAX_LENGTH = 512

# Pooling heads are loaded from tuneport and not from the copy of their code in the checkpoint.
AutoModelForSequenceClassification.register(PooledConfig, PooledClassifier, exist_ok=True)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that has everything an export needs."""

    folder: Path
    run: Run | None
    """None for a checkpoint that was trained elsewhere."""
    task: str
    config: PretrainedConfig
    tokenizer: Any
    """The tokenizer of transformers; always a fast one for encoders."""
    labels: tuple[str, ...]
    max_length: int
    """Tokens of an input, special tokens included; of Whisper, positions of its encoder."""
    trust_remote_code: bool
    facts: Facts = field(default_factory=Facts)
    """What training knew of its data."""
    generation_limits: generative.GenerationLimits | None = None
    """None for encoders."""
    extractor: Any = None
    """The feature extractor of speech models."""
    known_sha256: str | None = None
    """Its hash, where opening it took it."""

    @property
    def accepts_pairs(self) -> bool:
        """Whether inputs are pairs of texts."""
        return self.facts.accepts_pairs

    @property
    def may_be_reranker(self) -> bool:
        """Whether it may score pairs or texts: it has one output, was trained elsewhere, and there is no data."""
        return self.facts.accepts_single_texts

    @functools.cached_property
    def sha256(self) -> str:
        """Return the hash of the files that determine the model's outputs, taken once: of a run when it is opened."""
        return self.known_sha256 or hash_checkpoint(self.folder)


def open_checkpoint(
    path: Path, *, task: str | None = None, max_length: int | None = None, trust_remote_code: bool = False
) -> Checkpoint:
    """Open a checkpoint; a CheckpointError names what is missing or does not fit the task.

    `task` is for checkpoints that were trained elsewhere and whose architecture fits several tasks. `max_length`
    is in tokens, by default that of the run.
    """
    run = load_run(path) if (path / RUN).is_file() else None
    folder = path / CHECKPOINT if run else path
    check_files(path, folder)
    sha256 = _check_unchanged(run, folder) if run else None
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
        task = task or (run.task if run else infer_task(config, folder))
        check_architecture(config, task, folder)
        facts = Facts.of(run) if run else Facts(problem_type=config.problem_type)
        checkpoint = Checkpoint(folder, run, task, config, None, (), 0, trust_remote_code, facts)
        opened = _OPENERS[task_spec(task).family](checkpoint, max_length)
    except CheckpointError:
        raise
    except Exception as error:  # the tokenizers library raises exceptions without a class of their own
        raise loading_error(folder, error) from error
    return replace(opened, known_sha256=sha256)


def _check_unchanged(run: Run, folder: Path) -> str:
    """Return the hash; raise a CheckpointError for files that are not the run's: its metrics say nothing of them."""
    sha256 = hash_checkpoint(folder)
    if run.checkpoint_sha256 not in (None, sha256):
        remedy = f"restore it or fine-tune again; after a change of your own export {folder} itself, with --data"
        raise CheckpointError(f"{folder} is not what the run wrote: a file in it was changed or damaged", remedy)
    return sha256


def _open_encoder(checkpoint: Checkpoint, max_length: int | None) -> Checkpoint:
    """Add an encoder's tokenizer, labels and maximum length."""
    folder, config, run = checkpoint.folder, checkpoint.config, checkpoint.run
    # Byte-level tokenizers encode a word of a list as within a text only with a space before it.
    options = {"add_prefix_space": True} if task_spec(checkpoint.task).reads_words else {}
    tokenizer = load_fast_tokenizer(folder, checkpoint.trust_remote_code, options)
    if run:
        tokenizer.model_input_names = list(run.inputs)
    check_tokenizer(tokenizer, config, folder)
    length = _max_length(config, tokenizer, max_length or (run.config["max_length"] if run else None))
    return replace(checkpoint, tokenizer=tokenizer, labels=_labels(config, folder, run), max_length=length)


def _open_generative(checkpoint: Checkpoint, max_length: int | None) -> Checkpoint:
    """Add a generative model's tokenizer, limits and feature extractor."""
    folder, run, task = checkpoint.folder, checkpoint.run, checkpoint.task
    tokenizer = generative.load_tokenizer(folder, run, trust_remote_code=checkpoint.trust_remote_code)
    limits = generative.generation_limits(folder, checkpoint.config, tokenizer, task, run, max_length)
    return replace(
        checkpoint,
        tokenizer=tokenizer,
        max_length=limits.max_length,
        generation_limits=limits,
        extractor=generative.load_extractor(folder, task),
    )


_OPENERS: dict[FamilyName, Callable[[Checkpoint, int | None], Checkpoint]] = {
    "encoder": _open_encoder,
    "generative": _open_generative,
}


def _labels(config: PretrainedConfig, folder: Path, run: Run | None) -> tuple[str, ...]:
    """Return the labels by index; a CheckpointError if indices have gaps, names repeat, or the run had others."""
    if set(config.id2label) != set(range(config.num_labels)):
        indices = sorted(config.id2label)[:8]
        raise CheckpointError(
            f"{folder}/config.json numbers its {config.num_labels} labels {indices}", "number them from 0 in id2label"
        )
    labels = tuple(str(config.id2label[i]) for i in range(config.num_labels))
    if repeated := [label for label, count in Counter(labels).items() if count > 1]:
        problem = f"{folder}/config.json has several labels named {repeated[0]!r}"
        raise CheckpointError(problem, "give each its own name in id2label")
    if run and run.labels and labels != run.labels:
        problem = f"{folder}/config.json has the labels {list(labels)[:8]} and the run {list(run.labels)[:8]}"
        raise CheckpointError(problem, "restore config.json, or export the checkpoint without its run")
    return labels


def _max_length(config: PretrainedConfig, tokenizer: PreTrainedTokenizerFast, requested: int | None) -> int:
    """Return the tokens of an input: `requested`, or what model and tokenizer allow, up to `DEFAULT_MAX_LENGTH`."""
    positions = position_limit(config) or declared_positions(encoder_config(config)) or DEFAULT_MAX_LENGTH
    limit = int(min(tokenizer.model_max_length, positions))
    if requested and requested > limit:
        raise CheckpointError(
            f"the model takes at most {limit} tokens, and {requested} were asked for", f"lower it to {limit}"
        )
    return requested or min(limit, DEFAULT_MAX_LENGTH)
