"""Trains, and begins again with smaller batches where the device has too little memory."""

from pathlib import Path

from tuneport.errors import EngineError, TuneportError
from tuneport.runtime.device_errors import classify, reason_of

from .memory import with_smaller_batch
from .resume import has_stopped, newest_checkpoint
from .setup import Prepared, load_model, make_trainer, with_settings
from .trainer import TuneportTrainer


def fit(trainer: TuneportTrainer, prepared: Prepared, out: Path, checkpoint: Path | None = None) -> TuneportTrainer:
    """Train from a checkpoint, or from the beginning; returns the trainer that did it, which may be another one.

    A training for which the memory is too small begins again from its newest checkpoint, or from the beginning, with
    half the rows in a batch and twice the batches in a step. The steps, their rows and their learning rates stay the
    same. Raises TuneportError if the memory is too small for one row, or the device fails.
    """
    while (reason := _train(trainer, checkpoint)) is not None:
        failed = trainer.state.global_step + 1
        before = prepared.config
        prepared = with_settings(prepared, with_smaller_batch(before, reason, trainer.args.world_size))
        checkpoint = newest_checkpoint(out)
        said, on_warning = trainer.warnings, trainer.on_warning
        _release(trainer)
        trainer = make_trainer(prepared, out, load_model(prepared))
        trainer.warnings, trainer.on_warning = said, on_warning
        trainer.warn(
            f"too little memory for {before.per_device_train_batch_size} rows at step {failed} ({reason}): training "
            f"begins again from {f'the checkpoint {checkpoint.name}' if checkpoint else 'the beginning'}, with "
            f"{_describe_batch(prepared)} instead of {before.per_device_train_batch_size} x "
            f"{before.gradient_accumulation_steps}"
        )
    return trainer


def _describe_batch(prepared: Prepared) -> str:
    config = prepared.config
    return f"{config.per_device_train_batch_size} rows x {config.gradient_accumulation_steps} batches a step"


def _train(trainer: TuneportTrainer, checkpoint: Path | None) -> str | None:
    """Train; returns why the memory was too small, or None if it was not."""
    try:
        if checkpoint and has_stopped(checkpoint):
            trainer.restore_best(checkpoint)
        else:
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except TuneportError:
        raise
    except Exception as error:
        failure, reason = classify(error), reason_of(error)
        if failure == "memory":
            return reason
        if failure == "lost":
            remedy = "check it with nvidia-smi; --resume continues a run that has a checkpoint"
            raise EngineError(f"the device failed ({reason})", remedy) from error
        if type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            problem = f"torch.compile cannot compile this model ({reason})"
            raise EngineError(problem, "leave torch_compile out") from error
        raise
    return None


def _release(trainer: TuneportTrainer) -> None:
    """Free the device's memory of a trainer that others may still refer to."""
    trainer.callback_handler.on_train_end(trainer.args, trainer.state, trainer.control)
    trainer.model.zero_grad(set_to_none=True)
    trainer.model.to("cpu")
    if trainer.optimizer is not None:
        trainer.optimizer.state.clear()
    trainer.accelerator.free_memory()
