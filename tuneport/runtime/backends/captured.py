"""CUDA graphs: a session's kernels for one shape, recorded once and launched at once from then on."""

import numpy as np
import onnxruntime as ort

from tuneport.errors import EngineError
from tuneport.runtime.backends.session import Signature
from tuneport.runtime.batch import Batch, Output
from tuneport.schema.artifact import Device, Shape

RUNS_TO_CAPTURE = 3
"""onnxruntime allocates in the first run and records in the next."""


class CapturedShape:
    """Inputs and outputs at fixed addresses on the device, for padded batches of up to (rows, length)."""

    def __init__(
        self, session: ort.InferenceSession, signature: Signature, device: Device, shape: Shape, graph_id: int
    ) -> None:
        """Record the graph; raises EngineError if the session's graph cannot be recorded."""
        self._session = session
        self._host = {name: np.zeros(shape, dtype) for name, dtype in signature.input_dtypes.items()}
        self._options = ort.RunOptions()
        self._options.add_run_config_entry("gpu_graph_id", str(graph_id))
        kind = "cpu" if device == "cpu" else "cuda"
        batch = Batch(self._host, ())
        self._inputs = {name: ort.OrtValue.ortvalue_from_numpy(values, kind) for name, values in self._host.items()}
        self._outputs = {
            name: ort.OrtValue.ortvalue_from_shape_and_type(_known(name, each), np.float32, kind)
            for name, each in signature.output_shapes(batch).items()
        }
        self._binding = session.io_binding()
        for name, value in self._inputs.items():
            self._binding.bind_ortvalue_input(name, value)
        for name, value in self._outputs.items():
            self._binding.bind_ortvalue_output(name, value)
        self._fill(batch)
        try:
            for _ in range(RUNS_TO_CAPTURE):
                session.run_with_iobinding(self._binding, self._options)
        except Exception as error:  # onnxruntime's exceptions have no common base
            problem = f"its kernels cannot be recorded as a CUDA graph for {shape[0]} x {shape[1]} ({str(error)[:200]})"
            raise EngineError(problem, "run it without CUDA graphs") from error

    def run(self, batch: Batch) -> dict[str, Output]:
        """Run a batch that fits; the outputs have the rows and positions of the padding at their ends."""
        self._fill(batch)
        self._session.run_with_iobinding(self._binding, self._options)
        return {name: np.array(value.numpy()) for name, value in self._outputs.items()}

    def _fill(self, batch: Batch) -> None:
        """Copy a batch to the device; rows of padding have one token, because attention to none is not a number."""
        for name, host in self._host.items():
            feed = batch.feeds[name]
            rows, length = feed.shape
            host.fill(0)
            host[:rows, :length] = feed
            if name == "attention_mask":
                host[rows:, 0] = 1
            self._inputs[name].update_inplace(host)


def _known(name: str, shape: tuple[int, ...] | None) -> list[int]:
    if shape is None:
        raise EngineError(
            f"the size of its output {name} does not follow from its inputs", "run it without CUDA graphs"
        )
    return list(shape)
