"""Open a graph in ONNX Runtime on the execution provider of a device, never on another one."""

import contextlib
import os
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from tuneport.errors import EngineError
from tuneport.host import usable_cores
from tuneport.runtime.backends.libraries import preload_tensorrt
from tuneport.runtime.backends.providers import PROVIDERS
from tuneport.runtime.batch import Batch
from tuneport.runtime.device_errors import load_error
from tuneport.runtime.device_options import NO_OPTIONS, DeviceOptions
from tuneport.schema.artifact import Device

ORT_ERROR = 3
"""onnxruntime's log severity for errors only; it warns about every quantized graph."""
SPIN_US = "20"
"""How long a thread of a session waits for its next part of an operator by spinning, before it sleeps.

With onnxruntime's default, milliseconds, two threads on two cores with other work took twice as long for a batch.
"""
KERNEL_SETTINGS = {"ORT_MIN_SEQ_LEN_FLASH_ATTENTION_PACKED_QKV": "0"}
"""Variables that onnxruntime's CUDA kernels read: by default packed rows below 513 tokens get no flash attention."""

TENSORRT_IS_MISSING = "Please install TensorRT libraries"
"""onnxruntime's text where TensorRT or CUDA cannot be loaded."""
INSTALL_LIBRARIES = (
    "install CUDA's libraries (tuneport[gpu] brings them, tuneport[tensorrt] those of TensorRT) and check the driver "
    "with nvidia-smi"
)
_REDIRECTION = threading.Lock()


def open_session(
    path: Path,
    *,
    device: Device = "cpu",
    threads: int | None = None,
    provider_options: Mapping[str, str] | None = None,
    device_options: DeviceOptions = NO_OPTIONS,
) -> ort.InferenceSession:
    """Open a session; raises EngineError without the execution provider, or if the graph cannot be loaded.

    `threads` are CPU threads, by default the container's quota; `provider_options` those of the device's provider,
    which `device_options` add to.
    """
    provider = check_provider(device)
    options = session_options(threads)
    try:
        providers = providers_for(device, provider_options or {}, device_options)
        # onnxruntime would answer a failure of the provider by printing it and opening the graph on the CPU.
        session = ort.InferenceSession(str(path), options, providers=providers, enable_fallback=0)
    except Exception as error:  # onnxruntime's exceptions have no common base
        if device == "tensorrt" and TENSORRT_IS_MISSING in str(error):
            raise EngineError(f"{provider} was asked for, and its libraries do not load", INSTALL_LIBRARIES) from error
        raise load_error("onnxruntime", path, error) from error
    # Without CUDA's libraries, onnxruntime only logs a line and uses the CPU.
    if session.get_providers()[0] != provider:
        problem = f"{provider} was asked for and {session.get_providers()[0]} was given"
        raise EngineError(problem, INSTALL_LIBRARIES)
    return session


def providers_for(
    device: Device, provider_options: Mapping[str, str], device_options: DeviceOptions
) -> list[tuple[str, dict[str, str]]]:
    """Return the execution providers of a session with their options, the device's first.

    `provider_options` are the variant's, and those of the deployment outweigh them.
    """
    cuda = device_options.cuda_options()
    options = {**provider_options, **(cuda if device == "cuda" else {})}
    # CUDA runs the nodes that TensorRT cannot compile.
    return [(PROVIDERS[device], options), *([(PROVIDERS["cuda"], cuda)] if device == "tensorrt" else [])]


def check_provider(device: Device) -> str:
    """Load a device's libraries and return its execution provider; EngineError if this onnxruntime lacks it."""
    provider = PROVIDERS[device]
    if provider not in ort.get_available_providers():
        raise EngineError(
            f"this onnxruntime has no {provider}",
            "install tuneport[gpu] instead of tuneport[cpu], or use a variant for another device",
        )
    if device != "cpu":
        os.environ |= {name: value for name, value in KERNEL_SETTINGS.items() if name not in os.environ}
        with stdout_to_stderr():  # it prints what it does not find, among a command's results
            ort.preload_dlls()  # CUDA and cuDNN, as Python packages bring them
    if device == "tensorrt":
        preload_tensorrt()
    return provider


@contextlib.contextmanager
def stdout_to_stderr() -> Iterator[None]:
    """Print to standard error in here; one thread at a time, because `sys.stdout` is the process's."""
    with _REDIRECTION, contextlib.redirect_stdout(sys.stderr):
        yield


def session_options(threads: int | None) -> ort.SessionOptions:
    """Return the options of every session; `threads` are CPU threads, by default the container's quota."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads or usable_cores()
    options.inter_op_num_threads = 1
    # Long enough for the next operator of the same run, and too short to take a core from the tokenizer and the server,
    # or from torch between two tokens of a generation.
    options.add_session_config_entry("session.intra_op.spin_duration_us", SPIN_US)
    options.log_severity_level = ORT_ERROR
    return options


class Signature:
    """The inputs and outputs of a session's graph."""

    def __init__(self, session: ort.InferenceSession) -> None:
        """Read them once: each call of the session's methods crosses into C++."""
        self._input_axes = {each.name: tuple(each.shape) for each in session.get_inputs()}
        self._output_axes = {each.name: tuple(each.shape) for each in session.get_outputs()}
        self.input_dtypes: dict[str, npt.DTypeLike] = {
            each.name: np.int32 if each.type == "tensor(int32)" else np.int64 for each in session.get_inputs()
        }
        self.output_names = list(self._output_axes)

    def output_shapes(self, batch: Batch) -> dict[str, tuple[int, ...] | None]:
        """Return the shape of each output for a batch; None where an axis has a name that no input has."""
        sizes: dict[str, int] = {}
        for name, axes in self._input_axes.items():
            sizes.update(zip(axes, batch.feeds[name].shape, strict=True))
        known = {name: tuple(sizes.get(axis, axis) for axis in axes) for name, axes in self._output_axes.items()}
        return {name: shape if all(isinstance(each, int) for each in shape) else None for name, shape in known.items()}
