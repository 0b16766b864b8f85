"""ONNX Runtime's execution providers by device; imports no engine."""

from tuneport.schema.artifact import Device

PROVIDERS: dict[Device, str] = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
