"""Check that the device that variants are built for is available to ONNX Runtime and torch, before any work is done."""

import tempfile
from pathlib import Path

import onnx
from onnx import TensorProto, helper

from tuneport.runtime.backends.session import open_session
from tuneport.schema.artifact import Device

OPSET = 17
IR_VERSION = 8
"""Old enough for every supported onnxruntime."""


def check_device(device: Device) -> None:
    """Open a graph of one node on the device; an EngineError names the remedy if its provider or torch cannot run."""
    if device == "cpu":
        return
    source, result = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("x", "y"))
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "probe", [source], [result])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    with tempfile.TemporaryDirectory() as folder:
        onnx.save(model, str(Path(folder) / "probe.onnx"))
        open_session(Path(folder) / "probe.onnx", device=device)
    from .torch_device import TORCH_DEVICES, check_torch  # whose import of torch takes seconds, and fails without it

    check_torch(TORCH_DEVICES[device])
