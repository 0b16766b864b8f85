"""Match a checkpoint's architecture with tasks, by the endings of class names that the tasks declare."""

from pathlib import Path

from transformers import PretrainedConfig

from tuneport.errors import CheckpointError
from tuneport.tasks import TaskSpec, all_tasks, task_spec

ENCODERS = "BERT, RoBERTa, DeBERTa or ModernBERT"
GENERATIVE = "T5, BART, Marian, GPT-2, Llama or Whisper"


def other_architecture(task: str) -> str:
    """Return the remedy for a model whose architecture cannot be exported."""
    return f"fine-tune another architecture, such as {GENERATIVE if task_spec(task).is_generative else ENCODERS}"


def tasks_of(config: PretrainedConfig) -> tuple[str, ...]:
    """Return the tasks with the longest matching ending; empty if no task has the architecture."""
    lengths = {spec.name: length for spec in all_tasks().values() if (length := _longest_ending(spec, config))}
    longest = max(lengths.values(), default=0)
    return tuple(name for name, length in lengths.items() if length == longest)


def infer_task(config: PretrainedConfig, folder: Path) -> str:
    """Return the task of a checkpoint without a run record; a CheckpointError if none or several match."""
    candidates = tasks_of(config)
    if set(candidates) == {"text-classification", "regression"}:
        is_number = config.problem_type == "regression" or config.num_labels == 1
        return "regression" if is_number else "text-classification"
    if len(candidates) > 1:
        problem = f"{folder} ({_name(config)}) may be for {' or '.join(candidates)}"
        raise CheckpointError(problem, f"say which: --task {' or --task '.join(candidates)}")
    if not candidates:
        endings = sorted({ending for spec in all_tasks().values() for ending in spec.architectures})
        raise CheckpointError(
            f"{folder} holds {_name(config)}, which has no task here",
            f"give a model whose architecture ends in one of: {', '.join(endings)}",
        )
    return candidates[0]


def check_architecture(config: PretrainedConfig, task: str, folder: Path) -> None:
    """Raise a CheckpointError if the task's models are loaded by another Auto class than this architecture.

    Tasks with one Auto class are interchangeable: a Marian model may have been trained to summarize.
    """
    candidates = [task_spec(name) for name in tasks_of(config)]
    spec = task_spec(task)
    if any(candidate.auto_model == spec.auto_model for candidate in candidates):
        return
    if spec.is_generative or any(candidate.is_generative for candidate in candidates):
        names = " or ".join(candidate.name for candidate in candidates)
        remedy = f"choose another task or model: it does {names}" if names else "choose another task or model"
        raise CheckpointError(f"{folder} is {_name(config)}, which cannot do {task}", remedy)
    if candidates:
        problem = f"{folder} holds {_name(config)}, whose head is for {candidates[0].name} and not for {task}"
        raise CheckpointError(problem, "give its task")


def _longest_ending(spec: TaskSpec, config: PretrainedConfig) -> int:
    """Return the length of the longest of a task's endings that the architecture has; 0 if it has none."""
    needs_encoder = {"AutoModelForSeq2SeqLM": True, "AutoModelForCausalLM": False}.get(spec.auto_model)
    if needs_encoder is not None and needs_encoder != bool(config.is_encoder_decoder):
        return 0
    names = config.architectures or []
    endings = [ending for ending in spec.architectures if any(name.endswith(ending) for name in names)]
    return max(map(len, endings), default=0)


def _name(config: PretrainedConfig) -> str:
    return ", ".join(config.architectures or []) or "an unnamed architecture"
