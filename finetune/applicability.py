"""Finds settings that a run would ignore, because of its task, strategy or optimizer."""

from collections.abc import Iterator, Mapping
from typing import Any

from tuneport.tasks import all_tasks

LOW_RANK = ("lora", "adalora")
ANY_VALUE = ("a value",)
"""Users of a setting that has an effect beside any value of another one but 0, none and the empty string."""
USED_BY: dict[str, tuple[str, tuple[str, ...]]] = {
    "num_last_layers": ("strategy", ("last_layers",)),
    "lora_r": ("strategy", LOW_RANK),
    "lora_alpha": ("strategy", LOW_RANK),
    "lora_dropout": ("strategy", LOW_RANK),
    "target_modules": ("strategy", (*LOW_RANK, "ia3")),
    "num_virtual_tokens": ("strategy", ("prefix",)),
    "adapter_reduction_factor": ("strategy", ("adapter",)),
    "momentum": ("optim", ("sgd",)),
    "warmup_ratio": ("lr_scheduler_type", ("linear", "cosine", "constant_with_warmup")),
    "eval_steps": ("eval_strategy", ("steps",)),
    "save_steps": ("save_strategy", ("steps",)),
    "synonyms": ("augment_synonyms", ANY_VALUE),
    "rehearsal_ratio": ("rehearsal_data", ANY_VALUE),
    "pseudo_label_threshold": ("pseudo_label_data", ANY_VALUE),
}
"""Setting → the setting that it depends on, and the values of that one with which it has an effect."""


def dependencies() -> dict[str, tuple[str, tuple[str, ...]]]:
    """Return `USED_BY` with the settings that only some tasks use; all other settings always have an effect."""
    tasks: dict[str, tuple[str, ...]] = {}
    for task, spec in all_tasks().items():
        for name in spec.settings:
            tasks[name] = (*tasks.get(name, ()), task)
    return {**USED_BY, **{name: ("task", users) for name, users in tasks.items()}}


def find_unused(changed: Mapping[str, Any], settings: Any, by: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Yield a problem and its remedy for each of the `changed` settings (name → value) that has no effect.

    `settings` has all settings as attributes; `by` names those whose values may make others useless.
    """
    known = dependencies()
    for name, value in changed.items():
        setting, users = known.get(name, ("", ()))
        if setting not in by or (name, value) == ("warmup_ratio", 0):  # it is as it says: no warm-up
            continue
        chosen = getattr(settings, setting)
        if users == ANY_VALUE and not chosen:
            yield f"{name} = {value!r} has no use without {setting}", f"leave {name} out, or set {setting}"
        elif users != ANY_VALUE and chosen not in users:
            subject = chosen if setting == "task" else f"{setting} = {chosen}"
            remedy = f"leave {name} out (it applies to {setting} {', '.join(users)})"
            yield f"{subject} has no use for {name} = {value!r}", remedy
