"""Whether the device that variants are made for is there, found out before any work."""

import tempfile
from pathlib import Path

import onnx
from onnx import TensorProto, helper

from export.manifest import Device
from serve.ort import OrtEngine

OPSET = 17
IR_VERSION = 8
"""Old enough for every onnxruntime that this project runs on."""


def check_device(device: Device) -> None:
    """Open the smallest of graphs on it; an EngineError with the remedy if another device would run it."""
    if device == "cpu":
        return
    made, taken = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("y", "x"))
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "probe", [taken], [made])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    with tempfile.TemporaryDirectory() as folder:
        onnx.save(model, str(Path(folder) / "probe.onnx"))
        OrtEngine(Path(folder) / "probe.onnx", device=device)
