"""Run the checkpoint in torch, eagerly and with transformers' own tokenizer, as the reference of every comparison."""

import inspect
import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import transformers
from safetensors import SafetensorError

from tuneport.errors import CheckpointError
from tuneport.runtime.batch import EncodedInput, RowOutputs, padded_batch
from tuneport.runtime.tasks.base import RuntimeTask

from .adapter import with_adapter
from .checkpoint import Checkpoint
from .checkpoint_files import loading_error
from .tasks.base import ExportTask

LAYER = re.compile(r"(.*?\.\d+)\.")
"""The layer of a weight: everything up to the first number in its name."""
INPUT_NAMES = ("input_ids", "attention_mask", "token_type_ids")
"""Inputs of encoders; some tokenizers return token types for models that take none."""


def _check_loaded(model: torch.nn.Module, loading_info: Mapping[str, Any], checkpoint: Checkpoint) -> None:
    """Raise a CheckpointError for weights that are missing, that belong to missing layers, or that are not finite.

    transformers only warns of missing weights and initializes them at random; parity with torch would not show it.
    """
    folder, missing = checkpoint.folder, sorted(loading_info["missing_keys"])
    if missing:
        problem = f"{folder} lacks {len(missing)} of the weights for {checkpoint.task}, such as {missing[0]}"
        raise CheckpointError(problem, "fine-tune the model for the task first; `tuneport finetune` does")
    # Checkpoints of older versions hold buffers that are unexpected now, but in layers that exist.
    layers = {match.group(1) for name in model.state_dict() if (match := LAYER.match(name))}
    extra = sorted(
        name
        for name in loading_info["unexpected_keys"]
        if (match := LAYER.match(name)) and not any(layer.endswith(match.group(1)) for layer in layers)
    )
    if extra:
        problem = f"{folder} has {len(extra)} weights of layers that its config.json does not name, such as {extra[0]}"
        raise CheckpointError(problem, "save model and configuration together")
    for name, values in model.named_parameters():
        if not torch.isfinite(values).all():
            raise CheckpointError(f"{folder} holds NaN or infinite values in {name}", "train again: it diverged")


class TorchModel:
    """The checkpoint in torch, without any optimization."""

    def __init__(self, checkpoint: Checkpoint, task: ExportTask, dtype: torch.dtype = torch.float32) -> None:
        """Load the weights from safetensors; a CheckpointError if they are damaged or do not fit the configuration."""
        self._checkpoint = checkpoint
        self._task = task
        self._processing = task.processing()
        auto_class = getattr(transformers, task.spec.auto_model)
        try:
            model, loading_info = auto_class.from_pretrained(
                checkpoint.folder,
                dtype=dtype,
                use_safetensors=True,
                trust_remote_code=checkpoint.trust_remote_code,
                output_loading_info=True,
            )
            _check_loaded(model, loading_info, checkpoint)
            self.model = with_adapter(model, checkpoint.folder).to(dtype).eval()
        except CheckpointError:
            raise
        except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
            raise loading_error(checkpoint.folder, error) from error
        self._input_names = set(inspect.signature(self.model.forward).parameters) & set(INPUT_NAMES)
        if self.model.config.pad_token_id is None:  # such as GPT-2's; padded batches need one
            self.model.config.pad_token_id = checkpoint.tokenizer.pad_token_id

    def outputs(
        self, runtime_task: RuntimeTask, parsed_inputs: Sequence[Any], batch_size: int = 16
    ) -> list[list[RowOutputs]]:
        """Return each input's outputs, one for each window, without padding; inputs of similar length share a batch."""
        order = sorted(range(len(parsed_inputs)), key=lambda i: len(str(parsed_inputs[i])))
        outputs: list[list[RowOutputs]] = [[] for _ in parsed_inputs]
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            feeds = self._tokenize([parsed_inputs[i] for i in batch])
            # The input that each window belongs to, as its index in the batch.
            owners = feeds.get("overflow_to_sample_mapping", range(len(batch)))
            for owner, window_outputs in zip(owners, self._run(feeds, runtime_task.per_token), strict=True):
                outputs[batch[int(owner)]].append(window_outputs)
        return outputs

    @property
    def output_names(self) -> tuple[str, ...]:
        """Return the names of the outputs that are compared."""
        return self._task.outputs

    def encode(self, parsed_inputs: Sequence[Any]) -> dict[str, torch.Tensor]:
        """Tokenize inputs to the tensors that the model takes, each int64 (windows, tokens), padded."""
        return {name: values for name, values in self._tokenize(parsed_inputs).items() if name in self._input_names}

    def _tokenize(self, parsed_inputs: Sequence[Any]) -> Any:
        return self._checkpoint.tokenizer(
            **self._task.torch_inputs(parsed_inputs),
            max_length=self._checkpoint.max_length,
            padding=True,
            return_tensors="pt",
            verbose=False,
        )

    def run_batch(self, rows: Sequence[EncodedInput]) -> Any:
        """Run rows in one padded batch, as a variant's runner does; for timing."""
        feeds = padded_batch(rows, self._processing).feeds
        with torch.inference_mode():
            return self.model(**{name: torch.from_numpy(feeds[name]) for name in self._input_names})

    def _run(self, feeds: Any, per_token: bool) -> list[RowOutputs]:
        with torch.inference_mode():
            outputs = self.model(**{name: values for name, values in feeds.items() if name in self._input_names})
        arrays = {name: outputs[name].float().numpy() for name in self._task.outputs}
        masks = feeds["attention_mask"].bool().numpy() if per_token else itertools.repeat(slice(None))
        rows = range(len(feeds["input_ids"]))
        return [
            {name: np.asarray(values[i][mask]) for name, values in arrays.items()}
            for i, mask in zip(rows, masks, strict=False)
        ]
