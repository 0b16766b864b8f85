"""transformers' Trainer with one scale of the loss, repeatable order of rows, more optimizers and adversarial steps."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import peft
import torch
from torch import nn
from torch.utils.data import SequentialSampler
from transformers import Seq2SeqTrainer, Trainer
from transformers.trainer_callback import TrainerState
from transformers.trainer_pt_utils import LengthGroupedSampler
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from tuneport.errors import TuneportError

from .losses import get_logits
from .memory import EvaluatesWithinMemory
from .resume import STATE
from .strategies import adalora
from .strategies.strategies import make_optimizer, parameter_groups
from .tasks.base import FinetuneTask
from .throughput import StepMeter


class TuneportTrainer(EvaluatesWithinMemory, Trainer):
    """A Trainer of a task, with the settings of a run."""

    def __init__(self, *, task: FinetuneTask, **options: Any) -> None:
        """`options` are the arguments of Trainer."""
        self.task, self.settings = task, task.config
        self.loss = task.loss()
        self._accumulated: list[dict[str, Any]] = []
        super().__init__(**options)
        # Trainer then leaves the scale of a loss to `compute_loss`.
        self.model_accepts_loss_kwargs = True
        self.meter = StepMeter(counts_targets=self.task.generates)
        self.add_callback(self.meter)

    def create_optimizer(self) -> torch.optim.Optimizer:
        """Group parameters by layer and weight decay; the learning rate is that of `args`, which a search changes."""
        if self.optimizer is None:  # type: ignore[has-type]
            decayed = set(self.get_decay_parameter_names(self.model))
            groups = parameter_groups(
                self.model, self.settings, decayed, self.args.learning_rate, self.args.weight_decay
            )
            self.optimizer = make_optimizer(self.settings, groups, self.args.learning_rate)
        return self.optimizer

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the model, with a prefix also the base model's config.json for its labels and problem type.

        A checkpoint to resume from, which is an internal call, holds all that AdaLoRA's budget depends on.
        """
        model = self.accelerator.unwrap_model(self.model)
        folder = Path(output_dir or self.args.output_dir)
        with adalora.all_ranks(model):
            super().save_model(output_dir, _internal_call)
        if self.args.should_save and isinstance(model, peft.PeftModel):
            model.get_base_model().config.save_pretrained(folder)
            adalora.save_allocator(model, folder)

    def _load_best_model(self) -> None:
        """Load the best checkpoint, also where the run was begun in another working folder, or was moved."""
        best = f"{PREFIX_CHECKPOINT_DIR}-{self.state.best_global_step}"
        self.state.best_model_checkpoint = str(Path(self.args.output_dir) / best)
        super()._load_best_model()

    def restore_best(self, checkpoint: Path) -> None:
        """Load what a training that ended at a checkpoint had at its end: its best weights, and its log."""
        self.state = TrainerState.load_from_json(str(checkpoint / STATE))
        self._load_best_model()

    def _inner_training_loop(self, batch_size: int | None = None, **named: Any) -> Any:
        """Train with the batch of the settings; Trainer would take that of the checkpoint, but not its accumulation."""
        return super()._inner_training_loop(batch_size=self.args.train_batch_size, **named)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Load the weights of a checkpoint, and the state of AdaLoRA's budget."""
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        adalora.load_allocator(self.accelerator.unwrap_model(self.model), Path(resume_from_checkpoint))

    def _get_eval_sampler(self, eval_dataset: Any) -> Any:
        """Keep the rows in order, which metrics rely on; Trainer would group them by length."""
        return SequentialSampler(eval_dataset) if self.args.world_size <= 1 else None

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        """Order the rows of an epoch by the seed and the epoch's number alone, so that a resumed run has the same."""
        if not self.args.group_by_length:
            return super()._get_train_sampler(train_dataset)  # which accelerate seeds in the same way
        # Of the whole data: Trainer has removed the column from `train_dataset`, which is for the model.
        lengths = list(self.train_dataset["length"])
        return EpochSampler(self.args.train_batch_size * self.args.gradient_accumulation_steps, lengths, self.args.seed)

    def evaluation_loop(self, *positional: Any, **named: Any) -> Any:
        """Leave the random state as it was, so that evaluations do not change the training around them."""
        devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
        with torch.random.fork_rng(devices=devices):
            return super().evaluation_loop(*positional, **named)

    def prediction_step(self, model: nn.Module, inputs: dict[str, Any], *positional: Any, **named: Any) -> Any:
        """Evaluate a batch; several processes fill up the last one with rows of others, which its loss leaves out."""
        loss, logits, labels = super().prediction_step(model, inputs, *positional, **named)
        size = len(next(iter(inputs.values())))
        own = self._own_rows(size)
        if loss is not None and 0 < own < size:
            rows = {name: value[:own] if len(value) == size else value for name, value in inputs.items()}
            with torch.no_grad(), self.compute_loss_context_manager():
                loss = self.compute_loss(model, self._prepare_inputs(rows)).detach()
        return loss, logits, labels

    def _own_rows(self, size: int) -> int:
        """Count the rows of this process's batch that are not repeated from the beginning of the split."""
        state = self.accelerator.gradient_state
        if self.args.world_size == 1 or not state.end_of_dataloader or state.remainder <= 0:
            return size
        return min(size, max(0, int(state.remainder) - self.args.process_index * size))

    def get_batch_samples(self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device) -> Any:
        """Take the batches of a step, and count what is trained on."""
        batches, targets = super().get_batch_samples(epoch_iterator, num_batches, device)
        self.meter.count(batches)
        return batches, targets

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> torch.Tensor:
        """Count the targets of a step: of all batches that it accumulates, in all processes."""
        total = sum(self.task.count_targets(batch).to(device) for batch in batch_samples)
        return self.accelerator.gather(torch.as_tensor(total, device=device)).sum()

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Compute the mean loss over the targets of a batch, times the batch's share of `num_items_in_batch`.

        The sum over the batches that a step accumulates is then the mean over all targets of the step, whatever the
        loss and the model. It is taken times the number of processes, of whose gradients a step uses the mean.
        """
        count = self.task.count_targets(inputs)
        outputs = model(**self._model_inputs(inputs))
        if not count:  # a mean over nothing is nan
            loss = get_logits(outputs).sum() * 0.0
        elif self.loss is None:
            loss = outputs["loss"] if isinstance(outputs, dict) else outputs[0]
        else:
            loss = self.loss(outputs, inputs)
        bare = self.accelerator.unwrap_model(model, keep_torch_compile=False)
        if self.loss is not None or not adalora.adds_regularization(bare):
            loss = loss + adalora.regularization(bare)
        if num_items_in_batch is not None:
            loss = loss * (count / num_items_in_batch.clamp(min=1) * self.accelerator.num_processes)
        return (loss, outputs) if return_outputs else loss

    def _model_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Leave out the targets where the model need not compute a loss, or shift them to the decoder's inputs."""
        is_decoder_fed = "decoder_input_ids" in inputs or not self.model.config.is_encoder_decoder
        if self.loss is None or not is_decoder_fed:
            return inputs
        return {name: value for name, value in inputs.items() if name not in self.task.target_columns}

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        """Compute the loss and its gradient, and with adversarial_epsilon add the gradient at moved embeddings."""
        loss = super().training_step(model, dict(inputs), num_items_in_batch)
        if self.settings.adversarial_epsilon:
            self._accumulated.append(inputs)
            if self.accelerator.sync_gradients:
                self._add_adversarial_gradient(model, num_items_in_batch)
                self._accumulated.clear()
        return loss

    def _add_adversarial_gradient(self, model: nn.Module, num_items_in_batch: Any) -> None:
        """Add the gradient of all batches of a step at embeddings moved along the gradient of the step.

        FGM, the fast gradient method of Miyato et al., "Adversarial Training Methods for Semi-Supervised Text
        Classification" (2017): the embedding weights move by epsilon along their normalized gradient.
        """
        weight = self.accelerator.unwrap_model(model, keep_torch_compile=False).get_input_embeddings().weight
        if weight.grad is None:
            raise TuneportError("adversarial_epsilon moves embeddings, and they are frozen", "use strategy = full")
        before = weight.detach().clone()
        norm = weight.grad.norm()
        if norm > 0 and torch.isfinite(norm):
            weight.data.add_(weight.grad * (self.settings.adversarial_epsilon / norm))
            for inputs in self._accumulated:
                super().training_step(model, dict(inputs), num_items_in_batch)
            weight.data.copy_(before)


class TuneportSeq2SeqTrainer(TuneportTrainer, Seq2SeqTrainer):
    """The Trainer of tasks whose evaluation generates text."""

    def __init__(self, **options: Any) -> None:
        """`options` are those of TuneportTrainer."""
        super().__init__(**options)
        if (loss := self.loss) is not None:  # Seq2SeqTrainer computes the loss of an evaluation with it
            self.label_smoother = lambda outputs, labels: loss(outputs, {"labels": labels})


class EpochSampler(LengthGroupedSampler):
    """Groups rows of similar length, in an order that depends on the seed and the epoch alone."""

    def __init__(self, batch_size: int, lengths: list[int], seed: int) -> None:
        """`lengths` has the tokens of each row, `batch_size` counts the rows of a step."""
        super().__init__(batch_size, lengths=lengths)
        self.seed, self.epoch = seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch's number, from 0, before its first row is asked for."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        """Yield the positions of all rows."""
        self.generator = torch.Generator().manual_seed(self.seed + self.epoch)
        return super().__iter__()
