"""Smaller batches where the device has too little memory, with the same result."""

from collections.abc import Callable
from typing import Any

from tuneport.errors import TuneportError
from tuneport.runtime.device_errors import classify, reason_of

from .config import FinetuneConfig


def with_smaller_batch(config: FinetuneConfig, reason: str, processes: int) -> FinetuneConfig:
    """Halve the batch of a device and double its accumulation, so that a step has the same rows and gradient.

    An odd size is divided by its least divisor. Raises TuneportError, which names the failure by its `reason`, for a
    batch of one row, and where several processes train: those that had enough memory are inside of the step.
    """
    size = config.per_device_train_batch_size
    if size == 1:
        raise TuneportError(
            f"the device has too little memory to train on one row ({reason})",
            "lower max_length, set gradient_checkpointing = true, or use strategy = lora or head",
        )
    divisor = next(number for number in range(2, size + 1) if size % number == 0)
    changes = {
        "per_device_train_batch_size": size // divisor,
        "gradient_accumulation_steps": config.gradient_accumulation_steps * divisor,
    }
    if processes > 1:
        remedy = ", ".join(f"{name} = {value}" for name, value in changes.items())
        problem = f"a device has too little memory for {size} rows ({reason})"
        raise TuneportError(problem, f"set {remedy}: steps stay the same")
    return config.model_copy(update=changes)


class EvaluatesWithinMemory:
    """Part of a Trainer: evaluations with a smaller batch where the device has too little memory for one."""

    args: Any

    def __init__(self, *positional: Any, **named: Any) -> None:
        """Take the arguments of the Trainer."""
        self.warnings: list[str] = []
        """What the Trainer changed by itself."""
        self.on_warning: Callable[[str], None] | None = None
        super().__init__(*positional, **named)

    def warn(self, warning: str) -> None:
        """Keep a warning for the record of the run, and say it."""
        self.warnings.append(warning)
        if self.on_warning:
            self.on_warning(warning)

    def evaluate(self, *positional: Any, **named: Any) -> Any:
        """Evaluate, with smaller batches if need be."""
        return self._within_memory(super().evaluate, positional, named)  # type: ignore[misc]

    def predict(self, *positional: Any, **named: Any) -> Any:
        """Predict, with smaller batches if need be."""
        return self._within_memory(super().predict, positional, named)  # type: ignore[misc]

    def _within_memory(self, run: Callable[..., Any], positional: tuple[Any, ...], named: dict[str, Any]) -> Any:
        """Run over a split, and from its beginning with half the batch each time that the memory is too small."""
        while True:
            try:
                return run(*positional, **named)
            except Exception as error:
                if isinstance(error, TuneportError) or classify(error) != "memory":
                    raise
                reason = reason_of(error)
            size = self.args.per_device_eval_batch_size
            if size == 1:
                raise TuneportError(
                    f"the device has too little memory to evaluate one row ({reason})", "lower max_length"
                )
            if self.args.world_size > 1:
                problem = f"a device has too little memory to evaluate {size} rows at once ({reason})"
                raise TuneportError(problem, f"set per_device_eval_batch_size = {size // 2}")
            self.args.per_device_eval_batch_size = size // 2
            self.warn(f"too little memory to evaluate {size} rows at once ({reason}): evaluating {size // 2} at once")
