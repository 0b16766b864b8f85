"""The other side of every comparison: torch and transformers, eager, with transformers' own tokenizer."""

import inspect
import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import transformers
from safetensors import SafetensorError

from export.adapter import with_adapter
from export.checkpoint import Checkpoint, unloadable
from export.files import CheckpointError
from export.tasks import Task
from serve.batcher import Result
from serve.tasks import Task as ServingTask
from serve.tokenizer import Row, pad

LAYER = re.compile(r"(.*?\.\d+)\.")
NAMES = ("input_ids", "attention_mask", "token_type_ids")
"""What an encoder may take; some tokenizers make token types for models that have none."""


def load_reference(checkpoint: Checkpoint, task: Task, dtype: torch.dtype = torch.float32) -> "TorchModel":
    """Load the checkpoint's weights as what fits the task: one that writes is asked otherwise."""
    if checkpoint.sizes is None:
        return TorchModel(checkpoint, task, dtype)
    from export.generative import TorchWriter

    return TorchWriter(checkpoint, task, dtype)


def _check_loaded(model: torch.nn.Module, told: Mapping[str, Any], checkpoint: Checkpoint) -> None:
    """Raise a CheckpointError for weights that are not there, not in the model, or not finite.

    transformers draws at random what a checkpoint lacks, and warns: torch and every variant would agree on it.
    """
    folder, missing = checkpoint.folder, sorted(told["missing_keys"])
    if missing:
        problem = f"{folder} lacks {len(missing)} of the weights for {checkpoint.task}, such as {missing[0]}"
        raise CheckpointError(problem, "fine-tune the model for the task first; `tuneport finetune` does")
    # Some families saved buffers once that are none any more: those stand in layers that are there.
    layers = {found.group(1) for name in model.state_dict() if (found := LAYER.match(name))}
    beyond = sorted(
        name
        for name in told["unexpected_keys"]
        if (found := LAYER.match(name)) and not any(layer.endswith(found.group(1)) for layer in layers)
    )
    if beyond:
        problem = (
            f"{folder} has {len(beyond)} weights of layers that its config.json does not name, such as {beyond[0]}"
        )
        raise CheckpointError(problem, "save model and configuration together")
    for name, values in model.named_parameters():
        if not torch.isfinite(values).all():
            raise CheckpointError(f"{folder} holds NaN or infinite values in {name}", "train again: it diverged")


class TorchModel:
    """The checkpoint as its author would run it."""

    def __init__(self, checkpoint: Checkpoint, task: Task, dtype: torch.dtype = torch.float32) -> None:
        """Load the weights, from safetensors alone; a CheckpointError if they are damaged or don't fit."""
        self._checkpoint = checkpoint
        self._task = task
        self._processing = task.processing()
        kind = getattr(transformers, task.auto_model)
        try:
            model, told = kind.from_pretrained(
                checkpoint.folder,
                dtype=dtype,
                use_safetensors=True,
                trust_remote_code=checkpoint.trust_remote_code,
                output_loading_info=True,
            )
            _check_loaded(model, told, checkpoint)
            self.model = with_adapter(model, checkpoint.folder).to(dtype).eval()
        except CheckpointError:
            raise
        except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
            raise unloadable(checkpoint.folder, error) from error
        self._takes = set(inspect.signature(self.model.forward).parameters) & set(NAMES)
        if self.model.config.pad_token_id is None:  # GPT-2's kin; a batch of texts needs one
            self.model.config.pad_token_id = checkpoint.tokenizer.pad_token_id

    def outputs(self, serving: ServingTask, given: Sequence[Any], batch_size: int = 16) -> list[list[Result]]:
        """Return each input's outputs, one a window, without padding; in batches of like length."""
        order = sorted(range(len(given)), key=lambda i: len(str(given[i])))
        outputs: list[list[Result]] = [[] for _ in given]
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            feeds = self._tokenize([given[i] for i in chosen])
            owners = feeds.get("overflow_to_sample_mapping", range(len(chosen)))
            for owner, result in zip(owners, self._run(feeds, serving.per_token), strict=True):
                outputs[chosen[int(owner)]].append(result)
        return outputs

    @property
    def outputs_named(self) -> tuple[str, ...]:
        """Name the outputs that count."""
        return self._task.outputs

    def encode(self, given: Sequence[Any]) -> dict[str, torch.Tensor]:
        """Turn inputs into what the model takes, each int64 (windows, tokens), padded."""
        return {name: values for name, values in self._tokenize(given).items() if name in self._takes}

    def _tokenize(self, given: Sequence[Any]) -> Any:
        return self._checkpoint.tokenizer(
            **self._task.for_torch(given),
            max_length=self._checkpoint.max_length,
            padding=True,
            return_tensors="pt",
            verbose=False,
        )

    def run_batch(self, rows: Sequence[Row]) -> Any:
        """Run rows in one padded batch, as a variant's engine does; for timing."""
        feeds = pad(rows, self._processing)
        with torch.inference_mode():
            return self.model(**{name: torch.from_numpy(feeds[name]) for name in self._takes})

    def _run(self, feeds: Any, per_token: bool) -> list[Result]:
        with torch.inference_mode():
            made = self.model(**{name: values for name, values in feeds.items() if name in self._takes})
        arrays = {name: made[name].float().numpy() for name in self._task.outputs}
        masks = feeds["attention_mask"].bool().numpy() if per_token else itertools.repeat(slice(None))
        rows = range(len(feeds["input_ids"]))
        return [
            {name: np.asarray(values[i][mask]) for name, values in arrays.items()}
            for i, mask in zip(rows, masks, strict=False)
        ]
