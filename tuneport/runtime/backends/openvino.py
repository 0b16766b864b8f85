"""The OpenVINO backend: the ONNX file in fp32 or bf16, or an int8 model of NNCF, on Intel CPUs."""

import threading
from pathlib import Path
from typing import Any

import numpy as np
import openvino

from tuneport.errors import EngineError
from tuneport.host import usable_cores
from tuneport.runtime.batch import Batch
from tuneport.runtime.device_errors import load_error
from tuneport.schema.artifact import Precision

HINTS: dict[Precision, str] = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}
"""Precision of the artifact → precision of the nodes that are not quantized."""
KERNELS = 256
"""Compiled kernels that a stream keeps, each for one operation and shape (OpenVINO's default: 5,000). Measured once
by hand: an int8 MiniLM of two streams that had met 342 shapes took 614 MiB instead of 860, and 81 recurring shapes ran
as fast as by default; with 64 kernels they were a tenth slower."""
CORE = openvino.Core()
"""The only Core of the process, kept until its end. Loading the CPU plugin gives the loading thread an alternate signal
stack, which is freed with the Core. If another Core was created meanwhile, or another thread drops the last reference,
the thread keeps a freed stack, and the next signal (Ctrl-C, SIGTERM) kills the process (seen in 2026.4)."""


class OpenVinoBackend:
    """One compiled model, with an infer request for each thread.

    Each new shape costs about 20 ms, and up to 3 MiB that are kept. Padding to a multiple of 8 makes shapes few, and
    `KERNELS` bounds how many are kept.
    """

    length_multiple = 8

    def __init__(self, path: Path, *, precision: Precision, threads: int | None = None, streams: int = 1) -> None:
        """Compile the model; raises EngineError if it cannot be loaded, or not in this precision.

        `threads` is the number of CPU threads of all streams together, by default the container's quota.
        """
        self.streams = streams
        settings = {
            "INFERENCE_PRECISION_HINT": HINTS[precision],
            "INFERENCE_NUM_THREADS": str(threads or usable_cores()),
            # Each of several processes would pin its threads to the same first cores.
            "ENABLE_CPU_PINNING": "NO",
            "NUM_STREAMS": str(streams),
            "CPU_RUNTIME_CACHE_CAPACITY": str(KERNELS),
        }
        try:
            self._compiled = CORE.compile_model(CORE.read_model(str(path)), "CPU", settings)
        except Exception as error:  # openvino's exceptions have no common base
            raise load_error("OpenVINO", path, error) from error
        actual = str(self._compiled.get_property("INFERENCE_PRECISION_HINT"))
        if precision == "bf16" and "bf16" not in actual and "bfloat16" not in actual:
            raise EngineError(
                f"bf16 was asked for and OpenVINO runs in {actual}", "serve on a processor that multiplies bfloat16"
            )
        self._inputs = [port.any_name for port in self._compiled.inputs]
        self._outputs = [port.any_name for port in self._compiled.outputs]
        # The first array passed to openvino initializes its binding. Two threads that do so at once deadlock (2026.4):
        # one holds the guard of a static variable and waits for the interpreter lock, which the other holds.
        openvino.Tensor(np.zeros(1, np.int64), shared_memory=True)
        self._local = threading.local()

    def run(self, batch: Batch) -> dict[str, Any]:
        """Run the model on a batch and return every output by name, rows first; unknown feeds are ignored."""
        if not hasattr(self._local, "request"):
            self._local.request = self._compiled.create_infer_request()
        outputs = self._local.request.infer({name: batch.feeds[name] for name in self._inputs}, share_inputs=True)
        return {name: outputs[port].copy() for name, port in zip(self._outputs, self._compiled.outputs, strict=True)}
