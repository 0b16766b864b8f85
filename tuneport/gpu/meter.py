"""What a model does with a GPU while it is measured: memory, utilization and energy."""

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from tuneport.gpu.devices import Gpu
from tuneport.gpu.nvml import ask, nvml
from tuneport.gpu.selection import visible_gpus
from tuneport.schema.base import Frozen


class GpuUsage(Frozen):
    """What a model did with a GPU while it was measured; None where NVML does not tell, and without a GPU.

    NVML counts all processes, so nothing else may use the GPU. It counts energy and utilization of whole GPUs alone.
    """

    memory_mib: float | None = None
    """GPU memory that opening and running it added."""
    utilization: float | None = None
    """Mean share of the time in which the GPU ran a kernel, 0 to 1."""
    energy_j_per_1000_texts: float | None = None


@dataclass
class GpuTotals:
    """What was measured of one model so far."""

    memory: int = 0
    """Bytes."""
    utilizations: list[int] = field(default_factory=list)
    """Per cent."""
    energy_mj: int = 0
    has_energy: bool = False
    texts: int = 0
    """Texts that were run while energy was counted; whoever runs them adds to it."""


class GpuMeter:
    """Measures memory, utilization and energy of one GPU while one model after the other is opened and runs."""

    def __init__(self, gpu: Gpu | None = None, interval_s: float = 0.02) -> None:
        """Ask the GPU every `interval_s` seconds; measure nothing without a GPU."""
        self._uuid = gpu.uuid if gpu else None
        self._interval_s = interval_s
        self._totals: dict[str, GpuTotals] = {}

    @property
    def has_gpu(self) -> bool:
        """Whether there is a GPU to measure."""
        return self._uuid is not None

    @contextlib.contextmanager
    def measure(self, name: str, *, only_memory: bool = False) -> Iterator[GpuTotals]:
        """Add to the totals of a model what happens until the end of the context.

        With `only_memory` neither energy nor utilization, for what is not the model's usual work.
        """
        totals = self._totals.setdefault(name, GpuTotals())
        with contextlib.ExitStack() as stack:
            pynvml = stack.enter_context(nvml()) if self._uuid else None
            handle = ask(pynvml, pynvml.nvmlDeviceGetHandleByUUID, self._uuid) if pynvml else None
            if pynvml is None or handle is None:
                yield totals
                return
            energy_before = ask(pynvml, pynvml.nvmlDeviceGetTotalEnergyConsumption, handle)
            with _polling(pynvml, handle, totals, self._interval_s, only_memory=only_memory):
                yield totals
            energy_after = ask(pynvml, pynvml.nvmlDeviceGetTotalEnergyConsumption, handle)
            if not only_memory and energy_before is not None and energy_after is not None:
                totals.energy_mj += energy_after - energy_before
                totals.has_energy = True

    def usage(self, name: str) -> GpuUsage:
        """Return what was measured of a model."""
        totals = self._totals.get(name, GpuTotals())
        utilizations = totals.utilizations
        return GpuUsage(
            memory_mib=round(totals.memory / 2**20, 1) if self._uuid else None,
            utilization=round(sum(utilizations) / len(utilizations) / 100, 3) if utilizations else None,
            energy_j_per_1000_texts=round(totals.energy_mj / totals.texts, 3)  # mJ a text are J a thousand
            if totals.has_energy and totals.texts
            else None,
        )


def memory_in_use() -> int | None:
    """Return the bytes in use on the GPU that CUDA opens in this process, by all processes; None if NVML is silent."""
    gpu = next(iter(visible_gpus()), None)
    with nvml() as pynvml:
        handle = ask(pynvml, pynvml.nvmlDeviceGetHandleByUUID, gpu.uuid) if pynvml and gpu and gpu.uuid else None
        return None if handle is None else _used(pynvml, handle)


@contextlib.contextmanager
def _polling(pynvml: Any, handle: Any, totals: GpuTotals, interval_s: float, *, only_memory: bool) -> Iterator[None]:
    """Poll a GPU in a thread; at the end add the growth of its memory, and the utilization of each poll."""
    peak = before = _used(pynvml, handle) or 0
    is_over = threading.Event()

    def poll() -> None:
        nonlocal peak
        while not is_over.wait(interval_s):
            peak = max(peak, _used(pynvml, handle) or 0)
            rates = None if only_memory else ask(pynvml, pynvml.nvmlDeviceGetUtilizationRates, handle)
            if rates is not None:
                totals.utilizations.append(rates.gpu)

    thread = threading.Thread(target=poll, name="gpu-meter", daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
        totals.memory += max(peak, _used(pynvml, handle) or 0) - before


def _used(pynvml: Any, handle: Any) -> int | None:
    """Return the bytes in use; None if NVML does not tell."""
    memory = ask(pynvml, pynvml.nvmlDeviceGetMemoryInfo, handle)
    return None if memory is None else int(memory.used)
