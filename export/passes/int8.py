"""Quantize to int8: dynamically with Optimum, or statically (QDQ) with ranges calibrated on the user's data."""

import contextlib
import dataclasses
import io
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import onnx
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.calibrate import create_calibrator, save_tensors_data
from optimum.onnxruntime import ORTQuantizer
from optimum.onnxruntime.configuration import AutoQuantizationConfig

from tuneport.errors import EngineError
from tuneport.runtime.batch import Ids

from ..config import CalibrationMethodName
from ..graph import Graph, quiet, save_graph
from .context import BuildContext

METHODS: dict[CalibrationMethodName, CalibrationMethod] = {
    "minmax": CalibrationMethod.MinMax,
    "entropy": CalibrationMethod.Entropy,
    "percentile": CalibrationMethod.Percentile,
}
HISTOGRAMS = {"entropy": {"num_bins": 256, "num_quantized_bins": 128}}
"""Bins of the histograms of activations. By default entropy has 128 of both and can only choose the full range."""
OP_TYPES = ["MatMul", "Gemm"]


def int8_dynamic(graph: Graph, context: BuildContext, folder: Path) -> Graph:
    """Quantize the weights of matrix products and embeddings; each batch of activations gets its scale at run time."""
    settings = AutoQuantizationConfig.avx512_vnni(
        is_static=False, per_channel=True, nodes_to_exclude=list(context.excluded_nodes)
    )
    settings = dataclasses.replace(settings, reduce_range=context.reduce_range)
    with tempfile.TemporaryDirectory(dir=folder) as scratch, quiet():
        quantizer = ORTQuantizer.from_pretrained(graph.folder, file_name=graph.path.name)
        quantizer.quantize(settings, save_dir=scratch, use_external_data_format=graph.has_external_data)
        file = Path(scratch) / f"{graph.path.stem}_quantized.onnx"
        _check_quantized(file)
        return Graph(folder, save_graph(file, folder / "model.onnx"))


def int8_static(graph: Graph, context: BuildContext, folder: Path) -> Graph:
    """Quantize matrix products; the ranges of their activations are fixed and come from the calibration batches."""
    return _quantize_static(graph, context, folder, QuantType.QUInt8, {})


def int8_symmetric(graph: Graph, context: BuildContext, folder: Path) -> Graph:
    """Quantize in the same way for TensorRT, whose activations are signed and have no zero point."""
    return _quantize_static(graph, context, folder, QuantType.QInt8, {"ActivationSymmetric": True})


def _quantize_static(
    graph: Graph, context: BuildContext, folder: Path, activation_type: QuantType, options: dict[str, Any]
) -> Graph:
    with tempfile.TemporaryDirectory(dir=folder) as scratch, quiet(), contextlib.redirect_stdout(io.StringIO()):
        file = Path(scratch) / "quantized.onnx"
        quantize_static(
            str(graph.path),
            str(file),
            calibration_data_reader=None,
            calibration_cache_path=_calibrate_activations(graph, context, Path(scratch)),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=OP_TYPES,
            per_channel=True,
            reduce_range=context.reduce_range,
            activation_type=activation_type,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=list(context.excluded_nodes),
            use_external_data_format=graph.has_external_data,
            calibrate_method=METHODS[context.calibration_method],
            # Outputs of products stay in fp32: quantizing them costs accuracy and saves no product.
            extra_options={"MatMulConstBOnly": True, "OpTypesToExcludeOutputQuantization": OP_TYPES, **options},
        )
        _check_quantized(file)
        return Graph(folder, save_graph(file, folder / "model.onnx"))


def _check_quantized(file: Path) -> None:
    """Raise EngineError for a graph in which everything stayed in fp32: it would be fp32 by another name."""
    nodes = onnx.load(str(file), load_external_data=False).graph.node
    if not any(word in node.op_type.lower() for node in nodes for word in ("quantize", "integer", "qlinear")):
        raise EngineError("nothing of it is quantized", "choose other variants")


def _calibrate_activations(graph: Graph, context: BuildContext, folder: Path) -> Path:
    """Write the ranges of activations on the calibration batches to a file that `quantize_static` reads."""
    calibrator = create_calibrator(
        graph.path,
        OP_TYPES,
        augmented_model_path=str(folder / "augmented.onnx"),
        calibrate_method=METHODS[context.calibration_method],
        use_external_data_format=graph.has_external_data,
        extra_options=HISTOGRAMS.get(context.calibration_method, {}),
    )
    calibrator.collect_data(_BatchReader(context.calibration_batches, graph.path))
    file = folder / "ranges.json"
    save_tensors_data(calibrator.compute_data(), file)
    return file


class _BatchReader(CalibrationDataReader):
    """Feed calibration batches to onnxruntime."""

    def __init__(self, batches: Iterable[Mapping[str, Ids]], graph: Path) -> None:
        names = [each.name for each in onnx.load(str(graph), load_external_data=False).graph.input]
        self._source: Iterator[dict[str, Any]] = ({name: each[name] for name in names} for each in batches)

    def get_next(self) -> Any:
        """Return the next batch; None after the last one."""
        return next(self._source, None)
