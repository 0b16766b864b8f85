"""Step `environment`: what the check runs on. Fails if the device is not there for torch and for ONNX Runtime.

python -m tuneport.stages.benchmarks.gpu_check.environment DEVICE RESULT
"""

import json
import sys
from importlib.metadata import version
from typing import Any

import onnxruntime
import torch

from tuneport.host import Host
from tuneport.schema.torch_setup import TorchDevice
from tuneport.stages.export.device import check_device

from ..command import one_line_errors
from .steps import write_result

LIBRARIES = ("transformers", "optimum", "onnx", "tokenizers", "bentoml")


def environment(device: TorchDevice) -> dict[str, Any]:
    """Describe host and libraries; raises EngineError if torch or ONNX Runtime cannot use the device."""
    check_device(device)
    found: dict[str, Any] = {
        "host": Host.here().model_dump(mode="json"),
        "versions": {name: version(name) for name in LIBRARIES},
        "providers": onnxruntime.get_available_providers(),
    }
    found["versions"] |= {"onnxruntime": onnxruntime.__version__, "torch": torch.__version__}
    if device == "cuda":
        found["torch"] = {"device": torch.cuda.get_device_name(), "cuda": torch.version.cuda}
        found["versions"]["cudnn"] = str(torch.backends.cudnn.version())  # type: ignore[no-untyped-call]
    return found


def main() -> None:
    """Write the description; one line on stderr and exit code 1 if the device is not there."""
    device, result = sys.argv[1:]
    with one_line_errors():
        found = environment("cuda" if device == "cuda" else "cpu")
    write_result(result, json.dumps(found))


if __name__ == "__main__":
    main()
