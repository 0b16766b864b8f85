"""The OpenVINO engine: the same ONNX file in fp32 or bf16, or an int8 model of NNCF's, on Intel processors."""

import threading
from pathlib import Path
from typing import Any

import numpy as np
import openvino

from tuneport.errors import EngineError
from tuneport.host import usable_cores
from tuneport.runtime.batch import Batch
from tuneport.schema.artifact import Precision

HINTS: dict[Precision, str] = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}
"""What is not quantized runs in this."""
CORE = openvino.Core()
"""One for the process, and to its end. Loading the CPU plugin gives the thread that does so a stack for its signal
handlers, which goes with the Core: where another Core came between, or the last reference went in another thread, the
thread is left with a stack that is no more, and the next signal (Ctrl-C, SIGTERM) kills the process (2026.4)."""


class OpenVinoBackend:
    """One compiled model; each thread has an infer request of its own.

    A shape that is new costs some 20 ms, and some 3 MiB that are kept: with a step of 8 there are few enough.
    """

    length_multiple = 8

    def __init__(self, path: Path, *, precision: Precision, threads: int | None = None, streams: int = 1) -> None:
        """Compile. `threads` counts processors for all streams; the container's quota when None."""
        self.streams = streams
        settings = {
            "INFERENCE_PRECISION_HINT": HINTS[precision],
            "INFERENCE_NUM_THREADS": str(threads or usable_cores()),
            "NUM_STREAMS": str(streams),
        }
        try:
            self._compiled = CORE.compile_model(CORE.read_model(str(path)), "CPU", settings)
        except Exception as error:  # openvino raises bare RuntimeErrors and its own
            raise EngineError(f"OpenVINO cannot load {path} ({error})", "export the checkpoint again") from error
        given = str(self._compiled.get_property("INFERENCE_PRECISION_HINT"))
        if precision == "bf16" and "bf16" not in given and "bfloat16" not in given:
            raise EngineError(
                f"bf16 was asked for and OpenVINO runs in {given}", "serve on a processor that multiplies bfloat16"
            )
        self._inputs = [port.any_name for port in self._compiled.inputs]
        self._outputs = [port.any_name for port in self._compiled.outputs]
        # The first array that is handed over prepares openvino's binding; two threads that do so at once wait for each
        # other for ever (2026.4: a static's guard is held while the interpreter's lock is asked for).
        openvino.Tensor(np.zeros(1, np.int64), shared_memory=True)
        self._local = threading.local()

    def run(self, batch: Batch) -> dict[str, Any]:
        """Run the model on a batch; returns every output by name, rows first."""
        if not hasattr(self._local, "request"):
            self._local.request = self._compiled.create_infer_request()
        made = self._local.request.infer({name: batch.feeds[name] for name in self._inputs}, share_inputs=True)
        return {name: made[port].copy() for name, port in zip(self._outputs, self._compiled.outputs, strict=True)}
