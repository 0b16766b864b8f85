"""Opens a tiny session on an engine, in a process of its own: `python -m tuneport.doctor.probe ENGINE DEVICE`.

Prints a JSON object: `found`, or `problem` and `remedy`.
"""

import json
import sys
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from tuneport.errors import EngineError, TuneportError
from tuneport.gpu import use_first_gpu

GRAPH = bytes.fromhex(
    "08083a3a0a0e0a01780a017812017922034164641206646f75626c65"
    "5a0f0a0178120a0a08080112040a020803620f0a0179120a0a08080112040a02080342040a00100d"
)
"""An ONNX graph that adds its input `x`, float32 (3,), to itself."""
INPUT = np.array([1.0, 2.0, 3.0], np.float32)


def probe_onnxruntime(device: Any) -> str:
    """Run the graph on an execution provider; raises EngineError if it is not the one that was asked for."""
    from tuneport.runtime.backends.providers import PROVIDERS
    from tuneport.runtime.backends.session import open_session

    with tempfile.TemporaryDirectory() as folder:
        session = open_session(_write_graph(folder), device=device)
        _check(session.run(None, {"x": INPUT})[0])
    return f"onnxruntime {session_version()}, {PROVIDERS[device]}"


def session_version() -> str:
    """Return the version of ONNX Runtime that is imported, whichever package it is from."""
    import onnxruntime

    return str(onnxruntime.__version__)


def probe_openvino(device: str) -> str:
    """Run the graph on OpenVINO."""
    import openvino

    with tempfile.TemporaryDirectory() as folder:
        compiled = openvino.Core().compile_model(str(_write_graph(folder)), device.upper())
        _check(next(iter(compiled({"x": INPUT}).values())))
    return f"openvino {version('openvino')}, {device.upper()}"


def probe_torch(device: str) -> str:
    """Add a tensor to itself on a device."""
    import torch

    _check((torch.tensor(INPUT, device=device) * 2).cpu().numpy())
    if device == "cpu":
        return f"torch {torch.__version__}, {device}"
    check_cuda_builds(torch.__version__, str(torch.version.cuda), onnxruntime_cuda())
    return f"torch {torch.__version__}, {device}, CUDA {torch.version.cuda}"


def onnxruntime_cuda() -> str | None:
    """Return the version of CUDA that ONNX Runtime is built for; None if it is not, or not installed."""
    try:
        import onnxruntime
    except ImportError:
        return None
    return getattr(onnxruntime, "cuda_version", None) or None


def check_cuda_builds(torch: str, of_torch: str, of_onnxruntime: str | None) -> None:
    """Raise EngineError if torch and ONNX Runtime are built for different versions of CUDA.

    An export loads both, and their packages of cuDNN have the same files.
    """
    wanted = (of_onnxruntime or of_torch).split(".")[0]
    if of_torch.split(".")[0] != wanted:
        problem = f"torch {torch} is built for CUDA {of_torch}, and ONNX Runtime for CUDA {of_onnxruntime}"
        raise EngineError(problem, f"install a build of torch for CUDA {wanted}")


PROBES: dict[str, Callable[[str], str]] = {
    "onnxruntime": probe_onnxruntime,
    "openvino": probe_openvino,
    "torch": probe_torch,
}


def _write_graph(folder: str) -> Path:
    path = Path(folder) / "graph.onnx"
    path.write_bytes(GRAPH)
    return path


def _check(result: Any) -> None:
    if not np.array_equal(result, INPUT * 2):
        raise EngineError(f"1+1, 2+2, 3+3 gave {np.asarray(result).tolist()}", "install the package again")


def main(engine: str, device: str) -> None:
    """Print what a probe found."""
    if device != "cpu":
        use_first_gpu()
    try:
        answer = {"found": PROBES[engine](device)}
    except TuneportError as error:
        answer = {"problem": error.problem, "remedy": error.remedy}
    except Exception as error:  # of any engine
        reason = str(error).strip().splitlines() or [type(error).__name__]
        answer = {"problem": f"{type(error).__name__}: {reason[0][:200]}", "remedy": ""}
    sys.stdout.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
