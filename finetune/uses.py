"""Which tasks, strategies and optimizers look at a setting; the others would ignore it, and that is refused."""

from collections.abc import Iterator, Mapping
from typing import Any

WRITE = ("translation", "summarization", "automatic-speech-recognition")
READ = ("translation", "summarization")
LOW_RANK = ("lora", "adalora")

USED_BY: dict[str, tuple[str, tuple[str, ...]]] = {
    "doc_stride": ("task", ("question-answering",)),
    "max_target_length": ("task", WRITE),
    "num_beams": ("task", WRITE),
    "source_prefix": ("task", READ),
    "source_language": ("task", READ),
    "target_language": ("task", WRITE),
    "chat_template": ("task", ("text-generation",)),
    "pooling": ("task", ("text-classification", "regression")),
    "class_weights": ("task", ("text-classification",)),
    "label_smoothing_factor": ("task", ("text-classification", "token-classification", *READ, "text-generation")),
    "num_last_layers": ("strategy", ("last_layers",)),
    "lora_r": ("strategy", LOW_RANK),
    "lora_alpha": ("strategy", LOW_RANK),
    "lora_dropout": ("strategy", LOW_RANK),
    "target_modules": ("strategy", (*LOW_RANK, "ia3")),
    "num_virtual_tokens": ("strategy", ("prefix",)),
    "adapter_reduction_factor": ("strategy", ("adapter",)),
    "momentum": ("optim", ("sgd",)),
}
"""Setting → the setting that decides whether it is used, and the values with which it is. All others are always."""


def unused(changed: Mapping[str, Any], settings: Any, by: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Go through those of the `changed` settings (name → value) that nothing would look at.

    Yields what is wrong and what to do. `settings` has the others as attributes, `by` names those that may decide.
    """
    for name, value in changed.items():
        decides, values = USED_BY.get(name, ("", ()))
        if decides in by and getattr(settings, decides) not in values:
            chosen = getattr(settings, decides)
            subject = chosen if decides == "task" else f"{decides} = {chosen}"
            yield f"{subject} has no use for {name} = {value!r}", f"leave {name} out ({_what(decides, values)})"


def _what(decides: str, values: tuple[str, ...]) -> str:
    return f"it is of {decides} {', '.join(values)}"
