"""The ONNX Runtime backend for GPUs.

A batch is copied into page-locked buffers that are reused, from there to the device, and its outputs come back the same
way. Several streams, each with a session of its own, overlap the copies of one batch with the kernels of another; each
session holds the weights once, because onnxruntime shares initializers on the CPU only. Small padded batches run as
CUDA graphs, whose kernels are launched at once.
"""

import functools
import queue
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime as ort

from tuneport.gpu import memory_in_use
from tuneport.runtime.backends.buffers import HostBuffers
from tuneport.runtime.backends.captured import CapturedShape
from tuneport.runtime.backends.device_guard import GUARD
from tuneport.runtime.backends.session import Signature, open_session
from tuneport.runtime.batch import Batch, Output
from tuneport.runtime.device_options import NO_OPTIONS, DeviceOptions
from tuneport.schema.artifact import Device, Shape

NO_CAPTURE = "-1"
"""The id by which a run of a session with CUDA graphs neither captures nor replays one."""


class GpuBackend:
    """Streams that take batches in turn."""

    length_multiple = 1

    def __init__(
        self,
        path: Path,
        *,
        device: Device = "cuda",
        threads: int | None = None,
        streams: int = 1,
        graph_shapes: Sequence[Shape] = (),
        provider_options: Mapping[str, str] | None = None,
        device_options: DeviceOptions = NO_OPTIONS,
    ) -> None:
        """Open the sessions and capture the CUDA graphs; raises EngineError as `open_session` does.

        With the device `cpu` the same code runs without a GPU, and nothing is captured.

        `graph_shapes` are the (rows, padded length) of the CUDA graphs; a batch that fits into one is padded to it.
        """
        self.streams = streams
        options = dict(provider_options or {})
        if graph_shapes and device != "cpu":
            options["enable_cuda_graph"] = "1"
        open_stream = functools.partial(
            open_session,
            path,
            device=device,
            threads=threads,
            provider_options=options,
            device_options=device_options.for_each(streams),
        )
        self._free: queue.SimpleQueue[GpuStream] = queue.SimpleQueue()
        self.captured_bytes: int | None = None
        """GPU memory that capturing CUDA graphs added; None where there are none, or NVML does not tell."""
        with GUARD.opening():
            sessions = [open_stream() for _ in range(streams)]
            before = memory_in_use() if graph_shapes else None
            for session in sessions:
                self._free.put(GpuStream(session, device, sorted(graph_shapes)))
            if before is not None and (after := memory_in_use()) is not None:
                self.captured_bytes = after - before

    def run(self, batch: Batch) -> dict[str, Output]:
        """Run the graph on a batch and return every output by name, rows first; unknown feeds are ignored.

        The outputs of a CUDA graph have further rows and positions at their ends, those of its padding.
        """
        stream = self._free.get()
        try:
            with GUARD.running():
                return stream.run(batch)
        finally:
            self._free.put(stream)


class GpuStream:
    """A session, its buffers and its CUDA graphs. Not thread-safe."""

    def __init__(self, session: ort.InferenceSession, device: Device, graph_shapes: Sequence[Shape]) -> None:
        """Capture the CUDA graphs."""
        self._session = session
        self._device = device
        self._signature = Signature(session)
        self._buffers = HostBuffers(page_locked=device != "cpu")
        self._options = ort.RunOptions()
        self._captured: dict[Shape, CapturedShape] = {}
        self._thread: ThreadPoolExecutor | None = None
        if graph_shapes:
            self._options.add_run_config_entry("gpu_graph_id", NO_CAPTURE)
            # onnxruntime keeps a CUDA graph for the thread that captured it; another thread would capture its own,
            # in the middle of a request.
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="cuda_graphs")
            self._captured = self._thread.submit(self._capture, graph_shapes).result()

    def run(self, batch: Batch) -> dict[str, Output]:
        """Run one batch."""
        return self._run(batch) if self._thread is None else self._thread.submit(self._run, batch).result()

    def _capture(self, shapes: Sequence[Shape]) -> dict[Shape, CapturedShape]:
        captured = {}
        for number, shape in enumerate(shapes, 1):
            with GUARD.capturing():
                captured[shape] = CapturedShape(
                    self._session, self._signature, self._device, shape, number, self._buffers
                )
        return captured

    def _run(self, batch: Batch) -> dict[str, Output]:
        if batch.layout == "padded" and self._captured:
            rows, length = batch.feeds["input_ids"].shape
            fitting = (shape for shape in self._captured if shape[0] >= rows and shape[1] >= length)
            # The smallest computes the least padding.
            if shape := min(fitting, key=lambda each: each[0] * each[1], default=None):
                return self._captured[shape].run(batch)
        return self._run_bound(batch)

    def _run_bound(self, batch: Batch) -> dict[str, Output]:
        binding = self._session.io_binding()
        for name, dtype in self._signature.input_dtypes.items():
            buffer = self._buffers.get(name, batch.feeds[name].shape, dtype)
            np.copyto(buffer, batch.feeds[name], casting="same_kind")
            binding.bind_cpu_input(name, buffer)
        for name, shape in self._signature.output_shapes(batch).items():
            if shape is None:
                binding.bind_output(name)
            else:
                buffer = self._buffers.get(name, shape, np.float32)
                binding.bind_output(name, "cpu", 0, np.float32, shape, buffer.ctypes.data)
        self._session.run_with_iobinding(binding, self._options)
        # Copies, because the buffers are used again.
        outputs = (np.array(value.numpy()) for value in binding.get_outputs())
        return dict(zip(self._signature.output_names, outputs, strict=True))
