"""CUDA graphs: a session's kernels for one shape, recorded once and launched at once from then on."""

from collections.abc import Mapping

import numpy as np
import onnxruntime as ort

from tuneport.errors import EngineError
from tuneport.runtime.backends.buffers import HostBuffers
from tuneport.runtime.backends.session import Signature
from tuneport.runtime.batch import Batch, Ids, Output
from tuneport.schema.artifact import Device, Shape

RUNS_TO_CAPTURE = 3
"""onnxruntime allocates in the first run and records in the next."""


class CapturedShape:
    """Inputs and outputs at fixed addresses on the device, for padded batches of up to (rows, length)."""

    def __init__(
        self,
        session: ort.InferenceSession,
        signature: Signature,
        device: Device,
        shape: Shape,
        graph_id: int,
        buffers: HostBuffers,
    ) -> None:
        """Record the graph; raises EngineError if the session's graph cannot be recorded.

        `buffers` are those of the stream, which runs one batch at a time.
        """
        self._session = session
        self._shape = shape
        self._dtypes = signature.input_dtypes
        self._buffers = buffers
        self._options = ort.RunOptions()
        self._options.add_run_config_entry("gpu_graph_id", str(graph_id))
        kind = "cpu" if device == "cpu" else "cuda"
        nothing: dict[str, Ids] = {name: np.zeros((0, 0), np.int64) for name in self._dtypes}
        full = Batch({name: np.zeros(shape, np.int64) for name in self._dtypes}, ())
        self._inputs = {
            name: ort.OrtValue.ortvalue_from_shape_and_type(list(shape), dtype, kind)
            for name, dtype in self._dtypes.items()
        }
        self._output_shapes = {name: _known(name, each) for name, each in signature.output_shapes(full).items()}
        self._outputs = {
            name: ort.OrtValue.ortvalue_from_shape_and_type(list(each), np.float32, kind)
            for name, each in self._output_shapes.items()
        }
        self._binding = session.io_binding()
        for name, value in self._inputs.items():
            self._binding.bind_ortvalue_input(name, value)
        for name, value in self._outputs.items():
            self._binding.bind_ortvalue_output(name, value)
        self._fill(nothing)
        try:
            for _ in range(RUNS_TO_CAPTURE):
                session.run_with_iobinding(self._binding, self._options)
        except Exception as error:  # onnxruntime's exceptions have no common base
            problem = f"its kernels cannot be recorded as a CUDA graph for {shape[0]} x {shape[1]} ({str(error)[:200]})"
            raise EngineError(problem, "run it without CUDA graphs") from error

    def run(self, batch: Batch) -> dict[str, Output]:
        """Run a batch that fits; the outputs have the rows and positions of the padding at their ends."""
        self._fill(batch.feeds)
        self._session.run_with_iobinding(self._binding, self._options)
        return {
            name: self._buffers.read(name, value, self._output_shapes[name]) for name, value in self._outputs.items()
        }

    def _fill(self, feeds: Mapping[str, Ids]) -> None:
        """Copy a batch to the device; rows of padding have one token, because attention to none is not a number."""
        for name, dtype in self._dtypes.items():
            host = self._buffers.get(name, self._shape, dtype)
            rows, length = feeds[name].shape
            host.fill(0)
            host[:rows, :length] = feeds[name]
            if name == "attention_mask":
                host[rows:, 0] = 1
            self._inputs[name].update_inplace(host)


def _known(name: str, shape: tuple[int, ...] | None) -> tuple[int, ...]:
    if shape is None:
        raise EngineError(
            f"the size of its output {name} does not follow from its inputs", "run it without CUDA graphs"
        )
    return shape
