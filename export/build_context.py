"""Gather what variants are built from: the fp32 graph, calibration data, and the settings of the passes."""

import copy
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from tuneport.host import Host
from tuneport.runtime.batch import EncodedInput, padded_batch
from tuneport.runtime.scheduler import BatchLimits, pack_batches
from tuneport.schema.artifact import Processing

from .config import ExportConfig
from .graph import Graph
from .passes.context import BuildContext, CalibrationBatches
from .source import Reference, Source
from .steps import Steps
from .student import StudentSource


def build_context(
    config: ExportConfig, source: Source, reference: Reference, graph: Graph, steps: Steps
) -> BuildContext:
    """Gather what the variants of one export are built from."""
    model_config = source.checkpoint.config
    rows = reference.gate.rows if source.family.is_calibrated else []
    return BuildContext(
        fp32=graph,
        calibration_batches=calibration_batches(rows, reference.processing, config),
        calibration_method=config.calibration,
        smoothquant=config.smooth_quant,
        model_type=model_config.model_type,
        num_heads=getattr(model_config, "num_attention_heads", 0) or 0,
        hidden_size=getattr(model_config, "hidden_size", 0) or 0,
        device=config.device,
        per_token=reference.runtime_task.per_token,
        student=StudentSource(config, source, reference, steps) if rows else None,
        export_fp16=None if source.family.is_calibrated else _fp16_export(source, reference),
        reduce_range=reduces_range(config, Host.here()),
    )


def reduces_range(config: ExportConfig, host: Host) -> bool:
    """Tell whether int8 weights get 7 bits: without VNNI, sums of products of full ranges saturate."""
    if config.device != "cpu":
        return False
    return host.int8_saturates if config.instruction_set is None else config.instruction_set == "avx2"


def calibration_batches(
    rows: Sequence[EncodedInput], processing: Processing, config: ExportConfig
) -> CalibrationBatches:
    """Batch evenly spaced rows, those of similar length together, so that ranges are not those of padding."""
    count = min(config.calibration_rows, len(rows))
    chosen = [rows[round(i)] for i in np.linspace(0, len(rows) - 1, count)]
    if config.calibration != "minmax":  # onnxruntime's histograms need batches of one shape
        longest = max(map(len, chosen), default=0)
        return [padded_batch([row], processing, longest).feeds for row in chosen]
    batches = pack_batches([len(row) for row in chosen], BatchLimits())
    return [padded_batch([chosen[i] for i in batch], processing).feeds for batch in batches]


def _fp16_export(source: Source, reference: Reference) -> Callable[[Path], Graph]:
    def build(folder: Path) -> Graph:
        return source.family.to_onnx(copy.deepcopy(reference.model.model).half(), source.checkpoint, folder)

    return build
