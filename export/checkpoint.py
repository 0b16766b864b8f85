"""Opening a checkpoint: a run folder of `tuneport finetune`, or any folder that transformers saved."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedTokenizerFast,
)

from export import generative_checkpoint as writers
from export.files import CheckpointError, digest, sha256
from export.manifest import CHECKPOINT, PROCESSOR, RUN, TOKENIZER, Run, Task
from finetune.bottleneck import NAME as ADAPTER
from finetune.heads import PooledClassifier, PooledConfig

WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
TOKENIZERS = ("tokenizer.json", "vocab.txt", "vocab.json", "spiece.model", "sentencepiece.bpe.model", "spm.model")
TASKS: dict[str, Task] = {
    "ForSequenceClassification": "text-classification",
    "PooledClassifier": "text-classification",
    "ForTokenClassification": "token-classification",
    "ForQuestionAnswering": "question-answering",
    "ForQuestionAnsweringSimple": "question-answering",
}
"""Ending of an architecture's name → the task of a checkpoint that was trained elsewhere."""
LONGEST_BY_DEFAULT = 512
LFS_POINTER = b"version https://git-lfs"

# Our own pooling heads load without the code that their checkpoints carry for others.
AutoModelForSequenceClassification.register(PooledConfig, PooledClassifier, exist_ok=True)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that has everything an export needs."""

    folder: Path
    run: Run | None
    """None for a checkpoint that was trained elsewhere."""
    task: Task
    config: PretrainedConfig
    tokenizer: PreTrainedTokenizerFast
    """Of models that write it may be a slow one."""
    labels: tuple[str, ...]
    max_length: int
    trust_remote_code: bool
    pairs_in_data: bool = False
    """Whether the data says so, for a checkpoint that was trained elsewhere."""
    sizes: writers.Sizes | None = None
    """Of models that write."""
    extractor: Any = None
    """Turns sound into spectrograms, for models that hear."""

    @property
    def accepts_pairs(self) -> bool:
        """Whether inputs are pairs of texts."""
        return bool(self.run and self.run.accepts_pairs) or self.pairs_in_data

    def write_tokenizer(self, folder: Path) -> None:
        """Write tokenizer.json without settings of its own: serving has those of the manifest.

        Of models that write, transformers' own files, which hold chat templates and slow tokenizers, too.
        """
        if self.sizes:
            self.tokenizer.save_pretrained(folder / PROCESSOR)
            if self.extractor is not None:
                self.extractor.save_pretrained(folder / PROCESSOR)
            return
        backend = self.tokenizer.backend_tokenizer
        backend.no_truncation()  # left over settings would make the bytes depend on history
        backend.no_padding()
        backend.save(str(folder / TOKENIZER))

    def hash(self) -> str:
        """Hash the files that make the model: configuration, weights, tokenizer."""
        kinds = {".json", ".safetensors", ".txt", ".model", ".spm", ".jinja"}
        files = sorted(path for path in self.folder.iterdir() if path.suffix in kinds)
        files += sorted((self.folder / ADAPTER).glob("*"))
        return digest([(path.relative_to(self.folder).as_posix(), sha256(path)) for path in files])


def open_checkpoint(
    path: Path, *, task: Task | None = None, max_length: int | None = None, trust_remote_code: bool = False
) -> Checkpoint:
    """Check what a checkpoint folder holds; a CheckpointError names what is missing or doesn't fit.

    `task` is for checkpoints that were trained elsewhere and whose architecture leaves it open.
    """
    run = _read_run(path / RUN) if (path / RUN).is_file() else None
    folder = path / CHECKPOINT if run else path
    _check_files(path, folder)
    wanted = max_length or (run.config["max_length"] if run else None)
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
        task = task or (run.task if run else _task_of(config, folder))
        writers.check_fits(config, task, folder)
        _check_head(config, task, folder)
        if task in writers.GENERATIVE:
            return _open_writer(folder, run, task, config, max_length, trust_remote_code)
        # Byte-level tokenizers take a word of a list for one within a text only if they put a space before it.
        options = {"add_prefix_space": True} if task == "token-classification" else {}
        tokenizer = _load_tokenizer(folder, trust_remote_code, options)
        _check_tokenizer(tokenizer, config, folder)
        labels = _labels(config, folder)
    except CheckpointError:
        raise
    except Exception as error:  # the tokenizers library raises bare ones
        raise unloadable(folder, error) from error
    return Checkpoint(
        folder=folder,
        run=run,
        task=task,
        config=config,
        tokenizer=tokenizer,
        labels=labels,
        max_length=_max_length(config, tokenizer, wanted),
        trust_remote_code=trust_remote_code,
    )


def _open_writer(
    folder: Path, run: Run | None, task: Task, config: PretrainedConfig, max_length: int | None, trust_remote_code: bool
) -> Checkpoint:
    tokenizer = writers.load_tokenizer(folder, run, trust_remote_code=trust_remote_code)
    sizes = writers.sizes_of(folder, config, tokenizer, task, run, max_length)
    return Checkpoint(
        folder=folder,
        run=run,
        task=task,
        config=config,
        tokenizer=tokenizer,
        labels=(),
        max_length=sizes.max_length,
        trust_remote_code=trust_remote_code,
        sizes=sizes,
        extractor=writers.load_extractor(folder, task),
    )


def unloadable(folder: Path, error: Exception) -> CheckpointError:
    """Make one line of what a library says about a checkpoint."""
    reason = " ".join(str(error).split())[:250] or type(error).__name__
    remedy = "save it again with this version of transformers; custom code needs --trust-remote-code"
    return CheckpointError(f"{folder} cannot be loaded ({reason})", remedy)


def _read_run(path: Path) -> Run:
    try:
        return Run.model_validate_json(path.read_text(encoding="utf-8"))
    except (ValueError, ValidationError) as error:
        raise CheckpointError(f"{path} is not a run of this version", "fine-tune again") from error


def _check_files(path: Path, folder: Path) -> None:
    if not folder.is_dir():
        unfinished = path.is_dir() and (path / "trainer").exists()
        absent = "is a file" if path.is_file() else "does not exist"
        why = "holds a run that did not finish" if unfinished else absent
        raise CheckpointError(
            f"{path} {why}", "give the folder that `tuneport finetune … --out` wrote, or a checkpoint"
        )
    if (folder / "adapter_config.json").is_file():
        raise _not_merged(folder)
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"{folder} has no config.json", "give a folder that save_pretrained wrote")
    if not any((folder / name).is_file() for name in WEIGHTS):
        others = [file.name for file in folder.glob("*.bin")] + [file.name for file in folder.glob("*.pt")]
        found = f", only {', '.join(others)}, which can run code when loaded" if others else ""
        remedy = "save the model with save_pretrained(…, safe_serialization=True)"
        raise CheckpointError(f"{folder} has no model.safetensors{found}", remedy)
    for file in folder.glob("*.safetensors"):
        with file.open("rb") as opened:
            if opened.read(len(LFS_POINTER)) == LFS_POINTER:
                raise CheckpointError(f"{file} is a pointer of git-lfs and not the weights", "run `git lfs pull` there")
    if not any((folder / name).is_file() for name in TOKENIZERS):
        remedy = f"run AutoTokenizer.from_pretrained(BASE_MODEL).save_pretrained({str(folder)!r})"
        raise CheckpointError(f"{folder} has no tokenizer", remedy)


def _not_merged(folder: Path) -> CheckpointError:
    kind = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8")).get("peft_type", "adapter")
    if kind == "PREFIX_TUNING":
        said = "a prefix beside the weights, which enters every layer as if it had been read before: no graph takes it"
        return CheckpointError(
            f"{folder} holds {said}", "fine-tune with another strategy, such as lora, which is merged"
        )
    remedy = "load it with peft, call merge_and_unload(), and save the model"
    return CheckpointError(f"{folder} holds a {kind} adapter that is not merged into the weights", remedy)


def _load_tokenizer(folder: Path, trust_remote_code: bool, options: dict[str, bool]) -> PreTrainedTokenizerFast:
    """Load the tokenizer in its fast form, the only one that serving without transformers can run."""
    settings = folder / "tokenizer_config.json"
    name = json.loads(settings.read_text(encoding="utf-8")).get("tokenizer_class") if settings.is_file() else None
    # transformers 5 writes a class name that 4.57 doesn't know; the tokenizer.json beside it is fine.
    loader: Any = PreTrainedTokenizerFast if name == "TokenizersBackend" else AutoTokenizer
    tokenizer = loader.from_pretrained(folder, trust_remote_code=trust_remote_code, **options)
    if not tokenizer.is_fast:
        raise CheckpointError(
            f"{folder} has a tokenizer without a fast form ({type(tokenizer).__name__})",
            "convert it with AutoTokenizer.from_pretrained(…, use_fast=True).save_pretrained(…)",
        )
    return tokenizer


def _task_of(config: PretrainedConfig, folder: Path) -> Task:
    architectures = config.architectures or []
    for ending, task in TASKS.items():
        if any(name.endswith(ending) for name in architectures):
            is_number = config.problem_type == "regression" or config.num_labels == 1
            return "regression" if task == "text-classification" and is_number else task
    if writes := writers.task_of(config, folder):
        return writes
    raise CheckpointError(
        f"{folder} holds {', '.join(architectures) or 'an unnamed architecture'}, which has no task here",
        f"give a model whose architecture ends in one of: {', '.join(TASKS)}, or one that writes",
    )


def _check_head(config: PretrainedConfig, task: Task, folder: Path) -> None:
    """Raise a CheckpointError if the architecture says that its head is another task's."""
    heads = {task: name for name in config.architectures or [] for end, task in TASKS.items() if name.endswith(end)}
    fits = "text-classification" if task == "regression" else task
    if heads and fits not in heads:
        other, name = next(iter(heads.items()))
        raise CheckpointError(f"{folder} holds {name}, whose head is for {other} and not for {task}", "give its task")


def _check_tokenizer(tokenizer: PreTrainedTokenizerFast, config: PretrainedConfig, folder: Path) -> None:
    """Raise a CheckpointError for a tokenizer that cannot pad, or has tokens for which the model has no embedding."""
    if tokenizer.pad_token_id is None:
        remedy = "set tokenizer.pad_token and config.pad_token_id (to those of the end token, say), and save both again"
        raise CheckpointError(f"{folder} has a tokenizer without a padding token", remedy)
    embedded = getattr(config, "vocab_size", None) or len(tokenizer)
    if len(tokenizer) > embedded:
        raise CheckpointError(
            f"{folder} has {len(tokenizer)} tokens and the model embeds {embedded}",
            "call model.resize_token_embeddings(len(tokenizer)), fine-tune, and save both again",
        )


def _labels(config: PretrainedConfig, folder: Path) -> tuple[str, ...]:
    if set(config.id2label) != set(range(config.num_labels)):
        numbers = sorted(config.id2label)[:8]
        raise CheckpointError(
            f"{folder}/config.json numbers its {config.num_labels} labels {numbers}", "number them from 0 in id2label"
        )
    return tuple(str(config.id2label[i]) for i in range(config.num_labels))


def _max_length(config: PretrainedConfig, tokenizer: PreTrainedTokenizerFast, wanted: int | None) -> int:
    encoder = getattr(config, "encoder", None)
    if isinstance(encoder, dict):  # of a pooling head of ours
        config = AutoConfig.for_model(**encoder)
    positions = getattr(config, "max_position_embeddings", None) or LONGEST_BY_DEFAULT
    if positions < 1:  # XLNet's, which are relative
        positions = LONGEST_BY_DEFAULT
    # RoBERTa and its kin count positions from pad_token_id + 1.
    if config.model_type in {"roberta", "xlm-roberta", "camembert", "longformer"}:
        positions -= (config.pad_token_id or 0) + 1
    can = min(tokenizer.model_max_length, positions)
    if wanted and wanted > can:
        raise CheckpointError(
            f"the model takes at most {can} tokens, and {wanted} were asked for", f"lower it to {can}"
        )
    return wanted or min(can, LONGEST_BY_DEFAULT)
