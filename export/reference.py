"""Run the checkpoint in torch, with transformers' own tokenizer: the reference of every comparison, and baselines."""

import contextlib
import copy
import itertools
import math
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, Self

import numpy as np
import torch
import transformers

from tuneport.errors import CheckpointError, EngineError, TuneportError
from tuneport.host import usable_cores
from tuneport.runtime.batch import EncodedInput, Output, RowOutputs, padded_batch
from tuneport.runtime.tasks.base import RuntimeTask
from tuneport.schema.torch_setup import CPU_REFERENCE, TorchPrecision, TorchSetup

from .adapter import with_adapter
from .checkpoint import Checkpoint
from .checkpoint_files import loading_error
from .inputs import input_names
from .tasks.base import ExportTask
from .torch_device import TorchOutOfMemory, as_out_of_memory, check_torch, kernels
from .torch_int8 import quantize_linear

DTYPES: dict[TorchPrecision, torch.dtype] = {
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "int8": torch.float32,
}
"""Of the weights as they are loaded; those of int8 are quantized afterwards."""
LAYER = re.compile(r"(.*?\.\d+)\.")
"""The layer of a weight: everything up to the first number in its name."""
SAME = 1e-4
"""As a share of the largest output: what rounding may change when a row is padded."""
PROBES = ("a", "a b c d e f g h")
"""Two texts of different lengths."""


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


def _batches(parsed_inputs: Sequence[Any], size: int) -> Iterator[list[int]]:
    """Yield the indices of inputs of similar length; pairs and single texts apart, as tokenizers take them."""
    order = sorted(range(len(parsed_inputs)), key=lambda i: len(str(parsed_inputs[i])))
    for is_pair in (False, True):
        alike = [i for i in order if isinstance(parsed_inputs[i], tuple) == is_pair]
        yield from (alike[start : start + size] for start in range(0, len(alike), size))


class TorchModel:
    """The checkpoint in torch, on one device and in one precision."""

    compile_s: float | None = None
    """Seconds that `torch.compile` took; None if the model is not compiled."""
    runtime_task: RuntimeTask | None = None
    """What generation encodes and decodes with."""

    def __init__(self, checkpoint: Checkpoint, task: ExportTask, setup: TorchSetup = CPU_REFERENCE) -> None:
        """Load the weights from safetensors; a CheckpointError if they are damaged or do not fit the configuration.

        Raises EngineError if torch cannot run on the device.
        """
        check_torch(setup.device)
        torch.set_num_threads(usable_cores())  # as many as every engine has; torch would count the host's
        self._checkpoint = checkpoint
        self._task = task
        self._processing = task.processing()
        auto_class = getattr(transformers, task.spec.auto_model)
        try:
            model, loading_info = auto_class.from_pretrained(
                checkpoint.folder,
                dtype=DTYPES[setup.precision],
                use_safetensors=True,
                trust_remote_code=checkpoint.trust_remote_code,
                output_loading_info=True,
            )
            _check_loaded(model, loading_info, checkpoint)
            model = with_adapter(model, checkpoint.folder)
        except (TuneportError, MemoryError):
            raise
        except Exception as error:  # of the architecture, which meets settings that it never checked
            raise loading_error(checkpoint.folder, error) from error
        if model.config.pad_token_id is None:  # such as GPT-2's; padded batches need one
            model.config.pad_token_id = checkpoint.tokenizer.pad_token_id
        self._use(model, setup)

    def with_setup(self, setup: TorchSetup) -> Self:
        """Return the same checkpoint with another setup; both share the weights if their precision is the same.

        Raises EngineError if torch cannot run on the device.
        """
        check_torch(setup.device)
        is_same = (setup.device, setup.precision) == (self.setup.device, self.setup.precision)
        other = self._copy()
        with as_out_of_memory(setup, "its weights"):
            model = self.model if is_same else copy.deepcopy(self.model)
        other._use(model, setup)
        return other

    def with_model(self, model: Any) -> Self:
        """Return another model of the same task, such as a student, in the same setup and with the same tokenizer."""
        other = copy.copy(self)
        other._use(model, self.setup)
        return other

    def compiled_for_shapes(self) -> Self:
        """Return the model compiled anew for each shape, on CUDA with CUDA graphs: torch's fastest on fixed shapes."""
        other = self._copy()
        other._forward = torch.compile(self.model, mode="reduce-overhead", dynamic=False)
        other.setup = self.setup.model_copy(update={"compiled": True, "cudnn_attention": True})
        return other

    def _copy(self) -> Self:
        """Copy the model, with what tells whether padding matters: lower precisions round by more than `SAME`."""
        other = copy.copy(self)
        if not self._task.spec.is_generative:
            other._depends_on_padding = self._depends_on_padding
        return other

    def _use(self, model: Any, setup: TorchSetup) -> None:
        """Move a model to the setup's device and precision, and run it from now on.

        Raises TorchOutOfMemory if the device has too little memory for the weights.
        """
        with as_out_of_memory(setup, "its weights"):
            self.model = model.to(device=setup.device, dtype=DTYPES[setup.precision]).eval()
        if setup.precision == "int8":
            self.model = quantize_linear(self.model)
        # Lengths and numbers of rows vary: without `dynamic` each shape would be compiled.
        self._forward = torch.compile(self.model, dynamic=True) if setup.compiled else self.model
        attention = getattr(self.model.config, "_attn_implementation", None)
        self.setup = setup.model_copy(update={"attention": attention})

    def outputs(
        self, runtime_task: RuntimeTask, parsed_inputs: Sequence[Any], batch_size: int = 16
    ) -> list[list[RowOutputs]]:
        """Return each input's outputs, one for each window, without padding; inputs of similar length share a batch.

        Inputs whose batch does not fit into the device's memory run one at a time. Raises CheckpointError if the model
        fails, and TorchOutOfMemory if one input does not fit.
        """
        outputs: list[list[RowOutputs]] = [[] for _ in parsed_inputs]
        for batch in _batches(parsed_inputs, batch_size):
            feeds = self._tokenize([parsed_inputs[i] for i in batch])
            # The input that each window belongs to, as its index in the batch.
            owners = feeds.get("overflow_to_sample_mapping", range(len(batch)))
            windows = self._run_windows(feeds, runtime_task.per_token)
            for owner, window_outputs in zip(owners, windows, strict=True):
                outputs[batch[int(owner)]].append(window_outputs)
        return outputs

    def reloaded(self) -> "TorchModel":
        """Load the checkpoint anew; the copy has run nothing yet, not even what tells whether padding matters."""
        fresh = type(self)(self._checkpoint, self._task)
        fresh._depends_on_padding = self._depends_on_padding
        return fresh

    @property
    def output_names(self) -> tuple[str, ...]:
        """Return the names of the outputs that are compared."""
        return self._task.outputs

    def encode(self, parsed_inputs: Sequence[Any], *, multiple: int = 1) -> dict[str, torch.Tensor]:
        """Tokenize inputs to the tensors that the model takes, each int64 (windows, tokens), padded, on its device.

        The number of tokens is a multiple of `multiple` or, if the maximum length is none, of their common divisor.
        """
        divisor = math.gcd(multiple, self._checkpoint.max_length)
        return self._to_device(self._tokenize(parsed_inputs, pad_to_multiple_of=divisor))

    def run_batch(self, rows: Sequence[EncodedInput]) -> Any:
        """Run rows in one padded batch, as a variant's runner does, and return the outputs on the host; for timing."""
        feeds = {name: torch.from_numpy(values) for name, values in padded_batch(rows, self._processing).feeds.items()}
        if not self._depends_on_padding:
            try:
                return self._run(feeds)
            except CheckpointError:
                if len(rows) == 1:
                    raise
        return self._rows_one_by_one(feeds, per_token=False)

    def compile_on(self, rows: Sequence[EncodedInput]) -> None:
        """Compile the model, if its setup says so, for batches of one row and of several, and record the time.

        Raises EngineError if the compiler is missing or fails.
        """
        if not self.setup.compiled:
            return
        started, ordered = time.perf_counter(), sorted(rows, key=len)
        try:
            for batch in (ordered[:1], ordered[-1:], ordered[:2], ordered[-3:]):
                self.run_batch(batch)
        except Exception as error:  # of the compiler's, of any kind
            cause = error.__cause__ if isinstance(error, CheckpointError) and error.__cause__ else error
            reason = next(iter(str(cause).strip().splitlines()), type(cause).__name__)
            raise EngineError(f"torch.compile fails ({reason[:200]})", "leave out --torch-compile") from error
        self.compile_s = round(time.perf_counter() - started, 1)

    def _tokenize(self, parsed_inputs: Sequence[Any], *, pad_to_multiple_of: int = 1) -> Any:
        return self._checkpoint.tokenizer(
            **self._task.torch_inputs(parsed_inputs),
            max_length=self._checkpoint.max_length,
            padding=True,
            pad_to_multiple_of=pad_to_multiple_of,
            return_tensors="pt",
            return_attention_mask=True,  # which tokens are padding, though the model may not take it
            verbose=False,
        )

    def _to_device(self, feeds: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {name: values.to(self.setup.device) for name, values in feeds.items() if name in self._input_names}

    @cached_property
    def _input_names(self) -> tuple[str, ...]:
        return input_names(self.model, self._checkpoint.tokenizer)

    @cached_property
    def _depends_on_padding(self) -> bool:
        """Tell whether a row's outputs change when it is padded, because the model takes or uses no mask."""
        tokenizer, limit = self._checkpoint.tokenizer, self._checkpoint.max_length
        options = {"padding": True, "truncation": True, "max_length": limit, "return_tensors": "pt"}
        feeds = tokenizer(list(PROBES), return_attention_mask=True, **options)
        per_token = self._task.spec.task_class("runtime").per_token
        together, alone = self._rows(feeds, per_token), self._rows_one_by_one(feeds, per_token)
        if not all(np.isfinite(values).all() for outputs in alone for values in outputs.values()):
            return False  # `statelessness.py` refuses such a model
        gaps = [
            float(np.abs(values - outputs[name]).max(initial=0) / max(1.0, np.abs(values).max(initial=0)))
            for outputs, one in zip(together, alone, strict=True)
            for name, values in one.items()
        ]
        return max(gaps) > SAME

    def _run(self, feeds: Mapping[str, torch.Tensor]) -> dict[str, Output]:
        """Copy the feeds to the device, run the model, and copy the task's outputs back, as float32."""
        with (
            self._as_checkpoint_error((len(feeds["input_ids"]), feeds["input_ids"].shape[1])),
            torch.inference_mode(),
            kernels(self.setup),
        ):
            outputs = self._forward(**self._to_device(feeds))
            return {name: outputs[name].float().cpu().numpy() for name in self._task.outputs}

    def _run_windows(self, feeds: Any, per_token: bool) -> list[RowOutputs]:
        """Run windows in one batch or, for a model whose outputs depend on padding, each alone."""
        if not self._depends_on_padding:
            try:
                return self._rows(feeds, per_token)
            except (CheckpointError, TorchOutOfMemory):
                # BART, for one, needs equally many end tokens in each row.
                if len(feeds["input_ids"]) == 1:
                    raise
        # Outside of the handler: the exception holds the tensors of the batch that failed.
        return self._rows_one_by_one(feeds, per_token)

    def _rows_one_by_one(self, feeds: Any, per_token: bool) -> list[RowOutputs]:
        """Run rows one at a time, without padding."""
        outputs = []
        for i, mask in enumerate(feeds["attention_mask"].bool()):
            row = {name: feeds[name][i : i + 1, mask] for name in {"attention_mask", *self._input_names}}
            outputs += self._rows(row, per_token)
        return outputs

    def _rows(self, feeds: Any, per_token: bool) -> list[RowOutputs]:
        arrays = self._run(feeds)
        rows = range(len(feeds["input_ids"]))
        masks = feeds["attention_mask"].bool().numpy() if per_token else itertools.repeat(slice(None))
        return [
            {name: np.asarray(values[i][mask]) for name, values in arrays.items()}
            for i, mask in zip(rows, masks, strict=False)
        ]

    @contextlib.contextmanager
    def _as_checkpoint_error(self, shape: tuple[int, int]) -> Iterator[None]:
        """Turn what a model's forward raises, exceptions of any kind, into a CheckpointError or TorchOutOfMemory."""
        rows, tokens = shape
        inputs = f"{rows} input{'s' if rows > 1 else ''} of {tokens} tokens"
        try:
            with as_out_of_memory(self.setup, inputs, rows):
                yield
        except TuneportError:
            raise
        except Exception as error:
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            problem = f"{self._checkpoint.config.model_type} fails on {inputs} ({reason})"
            remedy = "export with a lower --max-length, or a model that takes such inputs"
            raise CheckpointError(problem, remedy) from error
