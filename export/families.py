"""Define what differs between encoders and generative models at export time."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuneport.runtime.batch import EncodedInput, RowOutputs
from tuneport.schema.artifact import PROCESSOR, TOKENIZER
from tuneport.schema.torch_setup import CPU_REFERENCE, TorchSetup
from tuneport.tasks import FamilyName, task_spec

from .checkpoint import Checkpoint
from .generative.reference import TorchGenerator, timed_rows
from .generative.to_onnx import generative_signature, generative_to_onnx
from .graph import Graph, Signature, read_signature
from .reference import TorchModel
from .tasks.base import ExportTask
from .to_onnx import encoder_to_onnx


@dataclass(frozen=True)
class ExportFamily:
    """How models of one family are loaded, converted, checked and timed."""

    name: FamilyName
    load_reference: Callable[[Checkpoint, ExportTask, TorchSetup], TorchModel]
    write_tokenizer: Callable[[Checkpoint, Path], None]
    """Write the tokenizer, and the feature extractor if there is one, into the artifact."""
    to_onnx: Callable[[Any, Checkpoint, Path], Graph]
    """Write the ONNX graphs of a torch model into a folder."""
    signature: Callable[[Graph], Signature]
    timed_rows: Callable[[Sequence[EncodedInput], Sequence[Sequence[RowOutputs]]], list[EncodedInput]]
    """Choose rows to time, given rows and torch's outputs of each input."""
    has_batch_choice: bool
    """Whether batch sizes are benchmarked; generation costs far more than the tokens of its prompt."""
    is_calibrated: bool
    """Whether variants can be calibrated and distilled on data."""
    needs_agreement: bool
    """Whether variants of lower precision must agree with torch; texts that differ after one token may be as good."""
    max_tolerance: float
    """Upper limit of the tolerance of golden cases; of generative models a share of tokens."""
    may_depend_on_batch: bool
    """Whether variants are checked for outputs that depend on the batch, and run rows one at a time if they do."""


def _write_tokenizer_json(checkpoint: Checkpoint, folder: Path) -> None:
    """Write tokenizer.json without truncation and padding, whose settings are in the manifest."""
    backend = checkpoint.tokenizer.backend_tokenizer
    backend.no_truncation()  # the settings of an earlier call would be saved, too
    backend.no_padding()
    backend.save(str(folder / TOKENIZER))


def _write_processor(checkpoint: Checkpoint, folder: Path) -> None:
    """Write transformers' own files, which also hold chat templates and slow tokenizers."""
    checkpoint.tokenizer.save_pretrained(folder / PROCESSOR)
    if checkpoint.extractor is not None:
        checkpoint.extractor.save_pretrained(folder / PROCESSOR)


def _all_rows(rows: Sequence[EncodedInput], expected: Sequence[Sequence[RowOutputs]]) -> list[EncodedInput]:
    return list(rows)


_FAMILIES: dict[FamilyName, ExportFamily] = {
    "encoder": ExportFamily(
        name="encoder",
        load_reference=TorchModel,
        write_tokenizer=_write_tokenizer_json,
        to_onnx=encoder_to_onnx,
        signature=lambda graph: read_signature(graph.path),
        timed_rows=_all_rows,
        has_batch_choice=True,
        is_calibrated=True,
        needs_agreement=True,
        max_tolerance=math.inf,
        may_depend_on_batch=True,
    ),
    "generative": ExportFamily(
        name="generative",
        load_reference=TorchGenerator,
        write_tokenizer=_write_processor,
        to_onnx=generative_to_onnx,
        signature=generative_signature,
        timed_rows=timed_rows,
        has_batch_choice=False,
        is_calibrated=False,
        needs_agreement=False,
        max_tolerance=0.95,
        may_depend_on_batch=False,
    ),
}


def export_family(task: str) -> ExportFamily:
    """Return the family of a task's models."""
    return _FAMILIES[task_spec(task).family]


def load_reference(checkpoint: Checkpoint, task: ExportTask, setup: TorchSetup = CPU_REFERENCE) -> TorchModel:
    """Load a checkpoint in torch; a CheckpointError if its weights are damaged or do not fit its configuration.

    Raises EngineError if torch cannot run on the setup's device.
    """
    return export_family(checkpoint.task).load_reference(checkpoint, task, setup)
