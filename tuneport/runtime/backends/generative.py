"""Models that write, on ONNX Runtime through Optimum: the same shape as `tuneport.runtime.runner.Model`.

Imported for generative tasks only; needs the `generate` extra (torch, transformers, Optimum).
"""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from optimum.onnxruntime import ORTModelForCausalLM, ORTModelForSeq2SeqLM, ORTModelForSpeechSeq2Seq
from transformers import StoppingCriteria
from transformers.generation.streamers import BaseStreamer

from tuneport.errors import EngineError
from tuneport.host import usable_cores
from tuneport.runtime.backends.onnxruntime import ORT_ERROR, check_provider
from tuneport.runtime.batch import EncodedInput, RowOutputs
from tuneport.runtime.runner import ModelRunner
from tuneport.runtime.scheduler import BatchLimits
from tuneport.runtime.tasks.base import RuntimeTask
from tuneport.runtime.tasks.generation import GenerationTask, Prompt, SamplingParams
from tuneport.schema.artifact import Execution, Processing

TAIL_TOKENS_PER_CHAR = 4
"""Enough for a stop in any script: a character is four bytes at most, and a token one at least."""


class GenerativeRunner(ModelRunner):
    """Generates an answer to each row: `{"tokens"}`, int64 (n,), without prompt and end token.

    A row with a known answer gets its `losses`, too, float32 (k,): -log p of each of its tokens, and `hits`, whether
    each was the likeliest.
    """

    supports_streams = False
    single_row_batches = False
    streams = 1
    """Sampling's random numbers are torch's own, of which there is one source."""

    def __init__(self, task: RuntimeTask, model: Any, processing: Processing) -> None:
        """`model` is anything with transformers' `generate`: a session of Optimum's, or the torch model."""
        assert isinstance(task, GenerationTask)
        self.task = self._generation_task = task
        self.model = model
        self.limits = BatchLimits()
        self._processing = processing
        self._ends = end_tokens(model)

    def run_batch(self, rows: Sequence[EncodedInput]) -> list[RowOutputs]:
        """Answer rows, those together that are written alike and, with a seed, each alone."""
        results: list[RowOutputs] = []
        for writing, same in itertools.groupby(rows, key=_writing):
            prompts = [row for row in same if isinstance(row, Prompt)]
            for batch in [prompts] if writing.seed is None else [[prompt] for prompt in prompts]:
                results += self._write(batch, writing)
        return results

    def _write(self, rows: Sequence[Prompt], writing: SamplingParams) -> list[RowOutputs]:
        if writing.seed is not None:
            torch.manual_seed(writing.seed)
        feeds = feeds_of(rows, self._processing)
        hears = "input_features" in feeds
        # Whisper's generate takes its own prompt off; others put theirs before what is new.
        skipped = 0 if hears else feeds["input_ids"].shape[1] if self._is_causal else 1
        criteria = (
            [_EndOfRow(rows, writing, self._generation_task)]
            if writing.stop or any(row.callback for row in rows)
            else []
        )
        streamer = _Broadcast(rows) if any(row.callback for row in rows) else None
        with torch.inference_mode():
            written = self.model.generate(**feeds, **arguments(writing), stopping_criteria=criteria, streamer=streamer)
        results = [{"tokens": self._answer(ids)} for ids in written[:, skipped:].numpy()]
        for row, result in zip(rows, results, strict=True):
            if row.scored:
                result |= score_reference(self.model, row)
        return results

    @property
    def _is_causal(self) -> bool:
        return not self.model.config.is_encoder_decoder

    def _answer(self, ids: Any) -> Any:
        """Cut at the first end token, which padding follows."""
        ends = np.flatnonzero(np.isin(ids, self._ends))
        return ids[: ends[0]] if len(ends) else ids


def open_generative(
    folder: Path, task: RuntimeTask, execution: Execution, processing: Processing, threads: int | None
) -> ModelRunner:
    """Open a variant of an artifact; an EngineError if ONNX Runtime or its provider cannot."""
    provider = check_provider(execution.device)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads or usable_cores()
    options.inter_op_num_threads = 1
    # Between two tokens torch has its turn; threads that spin meanwhile cost more than half on a busy machine.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = ORT_ERROR
    graphs = (folder / execution.files[0].path).parent
    kind = ORTModelForSpeechSeq2Seq if processing.generation and processing.generation.sampling_rate else None
    kind = kind or (ORTModelForCausalLM if (graphs / "model.onnx").is_file() else ORTModelForSeq2SeqLM)
    settings = {"local_files_only": True, "provider": provider, "session_options": options}
    try:
        writer = kind.from_pretrained(graphs, use_io_binding=execution.device != "cpu", **settings)
    except Exception as error:  # onnxruntime and Optimum raise a family of bare exceptions
        raise EngineError(f"onnxruntime cannot load {graphs} ({str(error)[:200]})", "export it again") from error
    if writer.providers[0] != provider:
        raise EngineError(f"{provider} was asked for and {writer.providers[0]} was given", "install CUDA's libraries")
    return GenerativeRunner(task, writer, processing)


def feeds_of(rows: Sequence[Prompt], processing: Processing) -> dict[str, torch.Tensor]:
    """Stack prompts: `input_ids` and `attention_mask`, int64 (rows, longest), or `input_features`, float32."""
    if rows[0].features is not None:
        return {"input_features": torch.from_numpy(np.stack([row.features for row in rows]))}
    longest = max(map(len, rows))
    ids = np.full((len(rows), longest), processing.pad_token_id, np.int64)
    mask = np.zeros_like(ids)
    for i, row in enumerate(rows):
        place = slice(longest - len(row), None) if processing.padding_side == "left" else slice(0, len(row))
        ids[i, place], mask[i, place] = row.ids, 1
    return {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}


def arguments(writing: SamplingParams) -> dict[str, Any]:
    """Say it in the names of transformers' `generate`; what else its settings are is the checkpoint's."""
    said: dict[str, Any] = {
        "max_new_tokens": writing.max_new_tokens,
        "num_beams": writing.num_beams,
        "do_sample": writing.temperature is not None,
    }
    if writing.min_new_tokens:
        said["min_new_tokens"] = writing.min_new_tokens
    if writing.temperature is not None:
        said |= {"temperature": writing.temperature, "top_p": writing.top_p, "top_k": writing.top_k}
    return said


def score_reference(writer: Any, row: Prompt) -> RowOutputs:
    """Ask for the likelihood of a known answer, token by token, each after the right ones before it."""
    ids = torch.tensor([row.scored])
    with torch.inference_mode():
        logits = writer(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0, row.scored_from - 1 : -1].float()
    right = ids[0, row.scored_from :]
    losses = torch.nn.functional.cross_entropy(logits, right, reduction="none")
    return {"losses": losses.numpy(), "hits": (logits.argmax(-1) == right).float().numpy()}


def end_tokens(writer: Any) -> list[int]:
    """Return the ids that end a text; a model may have several."""
    ends = writer.generation_config.eos_token_id
    return list(ends) if isinstance(ends, list | tuple) else [] if ends is None else [int(ends)]


def _writing(row: EncodedInput) -> SamplingParams:
    assert isinstance(row, Prompt)
    return row.sampling


class _EndOfRow(StoppingCriteria):
    """Ends a row at a stop, or when nobody listens any more."""

    def __init__(self, rows: Sequence[Prompt], writing: SamplingParams, task: GenerationTask) -> None:
        self._rows = rows
        self._stop = writing.stop
        self._task = task
        self._tail = TAIL_TOKENS_PER_CHAR * max(map(len, writing.stop), default=0) + 1
        self._begin: int | None = None

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        if self._begin is None:  # asked after the first new token
            self._begin = input_ids.shape[1] - 1
        beams = len(input_ids) // len(self._rows)
        return torch.tensor(
            [self._is_over(i // beams, ids) for i, ids in enumerate(input_ids)], device=input_ids.device
        )

    def _is_over(self, index: int, ids: torch.Tensor) -> bool:
        callback = self._rows[index].callback
        if callback and callback.cancelled:
            return True
        if not self._stop:
            return False
        new = ids[self._begin :].tolist()
        text = self._task.processor.decode(new[-self._tail :])
        return any(each in text for each in self._stop)


class _Broadcast(BaseStreamer):
    """Hands each row's tokens to who listens to it; transformers' own streamers know one row."""

    def __init__(self, rows: Sequence[Prompt]) -> None:
        self._rows = rows
        self._is_prompt = True

    def put(self, value: torch.Tensor) -> None:
        if self._is_prompt:
            self._is_prompt = False
            return
        for row, token in zip(self._rows, value.tolist(), strict=True):
            if row.callback:
                row.callback.on_token(token)

    def end(self) -> None:
        """Nothing is left: what is over, the result says."""
