"""An fp32 graph to int8: dynamic through Optimum, and static (QDQ) with ranges calibrated on the user's data."""

import contextlib
import dataclasses
import io
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import onnx
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)
from optimum.onnxruntime import ORTQuantizer
from optimum.onnxruntime.configuration import AutoQuantizationConfig

from export.to_onnx import quiet, save_graph
from serve.tokenizer import Ids

Ranges = Literal["minmax", "entropy", "percentile"]
METHODS = {
    "minmax": CalibrationMethod.MinMax,
    "entropy": CalibrationMethod.Entropy,
    "percentile": CalibrationMethod.Percentile,
}


def quantize_dynamic(fp32: Path, folder: Path, kept: Sequence[str] = (), *, reduce_range: bool = False) -> list[str]:
    """Write the graph with int8 weights in its matrix products and embeddings; returns the files' names.

    Activations are quantized as they come, a scale a batch. `kept` names nodes that stay in fp32. With
    `reduce_range` weights use 7 bits, so that processors without VNNI do not saturate.
    """
    settings = AutoQuantizationConfig.avx512_vnni(is_static=False, per_channel=True, nodes_to_exclude=list(kept))
    settings = dataclasses.replace(settings, reduce_range=reduce_range)
    with tempfile.TemporaryDirectory(dir=folder) as made, quiet():
        quantizer = ORTQuantizer.from_pretrained(fp32.parent, file_name=fp32.name)
        quantizer.quantize(settings, save_dir=made, use_external_data_format=_is_split(fp32))
        return save_graph(Path(made) / f"{fp32.stem}_quantized.onnx", folder / "model.onnx")


def quantize_calibrated(
    fp32: Path,
    folder: Path,
    feeds: Sequence[Mapping[str, Ids]],
    kept: Sequence[str] = (),
    ranges: Ranges = "minmax",
    *,
    reduce_range: bool = False,
) -> list[str]:
    """Write the graph with int8 matrix products whose activations have fixed ranges, seen on `feeds`.

    `feeds` are padded batches as engines take them. `kept` names nodes that stay in fp32. `reduce_range`
    as in `quantize_dynamic`.
    """
    with tempfile.TemporaryDirectory(dir=folder) as made, quiet(), contextlib.redirect_stdout(io.StringIO()):
        target = Path(made) / "quantized.onnx"
        quantize_static(
            str(fp32),
            str(target),
            _Feeds(feeds, fp32),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["MatMul", "Gemm"],
            per_channel=True,
            reduce_range=reduce_range,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=list(kept),
            use_external_data_format=_is_split(fp32),
            calibrate_method=METHODS[ranges],
            # Sums stay in fp32: rounding them as well costs accuracy and buys no product.
            extra_options={"MatMulConstBOnly": True, "OpTypesToExcludeOutputQuantization": ["MatMul", "Gemm"]},
        )
        return save_graph(target, folder / "model.onnx")


class _Feeds(CalibrationDataReader):
    """Batches in the form that onnxruntime's calibration asks for."""

    def __init__(self, feeds: Iterable[Mapping[str, Ids]], graph: Path) -> None:
        names = [each.name for each in onnx.load(str(graph), load_external_data=False).graph.input]
        self._source: Iterator[dict[str, Any]] = ({name: each[name] for name in names} for each in feeds)

    def get_next(self) -> Any:
        """Return the next batch, None after the last."""
        return next(self._source, None)


def _is_split(fp32: Path) -> bool:
    return any(path.name.startswith(f"{fp32.name}_") or path.suffix == ".data" for path in fp32.parent.iterdir())
