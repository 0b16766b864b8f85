"""The runner of generative models: ONNX Runtime through Optimum, with transformers' `generate`.

Imported for generative tasks only; needs the `generate` extra (torch, transformers, Optimum).
"""

import contextlib
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from optimum.onnxruntime import ORTModelForCausalLM, ORTModelForSeq2SeqLM, ORTModelForSpeechSeq2Seq
from transformers import StoppingCriteria

from tuneport.errors import EngineError
from tuneport.runtime.availability import use_fit_gpu
from tuneport.runtime.backends.device_guard import GUARD, DeviceGuard
from tuneport.runtime.backends.session import (
    INSTALL_LIBRARIES,
    check_provider,
    providers_for,
    session_options,
    stdout_to_stderr,
)
from tuneport.runtime.backends.stopping import CallbackStreamer, EndOfRow, PauseForCaptures
from tuneport.runtime.batch import EncodedInput, RowOutputs
from tuneport.runtime.device_errors import load_error
from tuneport.runtime.device_options import NO_OPTIONS, DeviceOptions
from tuneport.runtime.runner import ModelRunner, run_halved
from tuneport.runtime.scheduler import BatchLimits
from tuneport.runtime.tasks.base import RuntimeTask
from tuneport.runtime.tasks.generation import GenerationTask, Prompt
from tuneport.runtime.tasks.sampling import SamplingParams
from tuneport.schema.artifact import Execution, Processing
from tuneport.tasks import TaskSpec

KINDS = {
    "AutoModelForCausalLM": ORTModelForCausalLM,
    "AutoModelForSeq2SeqLM": ORTModelForSeq2SeqLM,
    "AutoModelForSpeechSeq2Seq": ORTModelForSpeechSeq2Seq,
}
"""The Auto class of a task's checkpoints → Optimum's class of their graphs."""


class GenerativeRunner(ModelRunner):
    """Generates the tokens of each row: `{"tokens"}`, int64 (n,), without prompt and end token.

    A row with a reference answer also has its `losses`, float32 (k,): -log p of each of its tokens, and `hits`,
    whether each was the likeliest.
    """

    supports_streams = False
    single_row_batches = False
    streams = 1
    """Sampling uses torch's random numbers, which all threads share."""

    def __init__(self, task: RuntimeTask, model: Any, processing: Processing, guard: DeviceGuard | None = None) -> None:
        """`model` has transformers' `generate`: one of Optimum's ONNX Runtime models, or the torch model.

        `guard` keeps a model that runs on a GPU away from the capture of another one's CUDA graphs.
        """
        assert isinstance(task, GenerationTask)
        self.task = self._generation_task = task
        self.model = model
        self.limits = BatchLimits()
        self.on_halved = lambda: None
        self._processing = processing
        self._ends = end_tokens(model)
        self._guard = guard or DeviceGuard()

    def run_batch(self, rows: Sequence[EncodedInput]) -> list[RowOutputs]:
        """Generate for all rows; neighbours with the same sampling parameters together, rows with a seed alone."""
        outputs: list[RowOutputs] = []
        for sampling, group in itertools.groupby(rows, key=_sampling_of):
            prompts = [row for row in group if isinstance(row, Prompt)]
            for batch in [prompts] if sampling.seed is None else [[prompt] for prompt in prompts]:
                outputs += self._generate_halved(batch, sampling)
        return outputs

    def _generate_halved(self, rows: Sequence[Prompt], sampling: SamplingParams) -> list[RowOutputs]:
        """Generate, in parts if the device's memory is too small; a stream cannot take back what it has sent."""
        repeatable = not any(row.callback for row in rows)
        with self._guard.running():
            return run_halved(lambda part: self._generate(part, sampling), rows, self.on_halved, repeatable=repeatable)

    def _generate(self, rows: Sequence[Prompt], sampling: SamplingParams) -> list[RowOutputs]:
        if sampling.seed is not None:
            torch.manual_seed(sampling.seed)
        feeds = {name: to_model(values, self.model) for name, values in feeds_of(rows, self._processing).items()}
        # Whisper's generate removes its own prompt; others return the prompt, or the decoder's start token, first.
        skipped = 0 if "input_features" in feeds else feeds["input_ids"].shape[1] if self._is_causal else 1
        has_callback = any(row.callback for row in rows)
        criteria: list[StoppingCriteria] = [PauseForCaptures(self._guard)]
        if sampling.stop or has_callback:
            criteria.append(EndOfRow(rows, sampling, self._generation_task))
        streamer = CallbackStreamer(rows) if has_callback else None
        with torch.inference_mode():
            ids = self.model.generate(
                **feeds, **generate_arguments(sampling), stopping_criteria=criteria, streamer=streamer
            )
        outputs = [{"tokens": self._without_end(row_ids)} for row_ids in ids[:, skipped:].cpu().numpy()]
        for row, output in zip(rows, outputs, strict=True):
            if row.scored:
                output |= score_reference(self.model, row)
        return outputs

    @property
    def _is_causal(self) -> bool:
        return not self.model.config.is_encoder_decoder

    def _without_end(self, ids: Any) -> Any:
        """Return the tokens before the first end token, which padding follows."""
        ends = np.flatnonzero(np.isin(ids, self._ends))
        return ids[: ends[0]] if len(ends) else ids


def open_generative(
    folder: Path,
    spec: TaskSpec,
    task: RuntimeTask,
    execution: Execution,
    processing: Processing,
    threads: int | None,
    device_options: DeviceOptions = NO_OPTIONS,
) -> ModelRunner:
    """Open a variant; raises EngineError if ONNX Runtime cannot load it or lacks the execution provider."""
    use_fit_gpu(execution)
    provider, on_gpu = check_provider(execution.device), execution.device != "cpu"
    guard = GUARD if on_gpu else DeviceGuard()
    options = session_options(threads)
    graphs = (folder / execution.files[0].path).parent
    # Optimum opens a session for each graph; the tensors of past key values are torch's and come on top.
    each = device_options.for_each(sum(file.path.endswith(".onnx") for file in execution.files))
    ((_, provider_options), *_) = providers_for(execution.device, execution.provider_options, each)
    settings = {"local_files_only": True, "provider": provider, "session_options": options}
    settings |= {"provider_options": provider_options} if provider_options else {}
    try:
        # Where the provider fails, onnxruntime prints why, and opens the graph on the CPU.
        with guard.opening(), stdout_to_stderr() if on_gpu else contextlib.nullcontext():
            model = KINDS[spec.auto_model].from_pretrained(graphs, use_io_binding=on_gpu, **settings)
    except Exception as error:  # the exceptions of onnxruntime and Optimum have no common base
        raise load_error("onnxruntime", graphs, error) from error
    if model.providers[0] != provider:
        raise EngineError(f"{provider} was asked for and {model.providers[0]} was given", INSTALL_LIBRARIES)
    return GenerativeRunner(task, model, processing, guard)


def feeds_of(rows: Sequence[Prompt], processing: Processing) -> dict[str, torch.Tensor]:
    """Stack prompts: `input_ids` and `attention_mask`, int64 (rows, longest), or `input_features`, float32."""
    if rows[0].features is not None:
        return {"input_features": torch.from_numpy(np.stack([row.features for row in rows]))}
    longest = max(map(len, rows))
    ids = np.full((len(rows), longest), processing.pad_token_id, np.int64)
    mask = np.zeros_like(ids)
    for i, row in enumerate(rows):
        positions = slice(longest - len(row), None) if processing.padding_side == "left" else slice(0, len(row))
        ids[i, positions], mask[i, positions] = row.ids, 1
    return {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}


def to_model(values: torch.Tensor, model: Any) -> torch.Tensor:
    """Copy an input to a model's device; features of audio get the model's precision, too."""
    return values.to(model.device, model.dtype if values.is_floating_point() else values.dtype)


def generate_arguments(sampling: SamplingParams) -> dict[str, Any]:
    """Return the arguments of transformers' `generate`; its other settings are the checkpoint's."""
    arguments: dict[str, Any] = {
        "max_new_tokens": sampling.max_new_tokens,
        "num_beams": sampling.num_beams,
        "do_sample": sampling.temperature is not None,
    }
    if sampling.min_new_tokens:
        arguments["min_new_tokens"] = sampling.min_new_tokens
    if sampling.temperature is not None:
        arguments |= {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": sampling.top_k}
    return arguments


def score_reference(model: Any, row: Prompt) -> RowOutputs:
    """Compute the likelihood of a row's reference answer by teacher forcing: `losses` and `hits`, float32 (k,)."""
    ids = torch.tensor([row.scored], device=model.device)
    with torch.inference_mode():
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0, row.scored_from - 1 : -1].float()
    reference = ids[0, row.scored_from :]
    losses = torch.nn.functional.cross_entropy(logits, reference, reduction="none")
    return {"losses": losses.cpu().numpy(), "hits": (logits.argmax(-1) == reference).float().cpu().numpy()}


def end_tokens(model: Any) -> list[int]:
    """Return the ids of the end tokens; a model may have several."""
    ends = model.generation_config.eos_token_id
    return list(ends) if isinstance(ends, list | tuple) else [] if ends is None else [int(ends)]


def _sampling_of(row: EncodedInput) -> SamplingParams:
    assert isinstance(row, Prompt)
    return row.sampling
