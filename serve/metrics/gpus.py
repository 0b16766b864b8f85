"""The state of the service's GPUs for Prometheus, read from NVML at each scrape."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tuneport.gpu import ask, nvml


@dataclass(frozen=True)
class Reading:
    """A figure of a GPU, and how NVML is asked for it."""

    name: str
    text: str
    read: Callable[[Any, Any], float | None]
    """Called with pynvml and a handle; None where the GPU, or a MIG instance, does not have it."""


def _memory_used(pynvml: Any, handle: Any) -> float | None:
    memory = ask(pynvml, pynvml.nvmlDeviceGetMemoryInfo, handle)
    return None if memory is None else float(memory.used)


def _memory_total(pynvml: Any, handle: Any) -> float | None:
    memory = ask(pynvml, pynvml.nvmlDeviceGetMemoryInfo, handle)
    return None if memory is None else float(memory.total)


def _utilization(pynvml: Any, handle: Any) -> float | None:
    rates = ask(pynvml, pynvml.nvmlDeviceGetUtilizationRates, handle)
    return None if rates is None else rates.gpu / 100


def _power(pynvml: Any, handle: Any) -> float | None:
    milliwatts = ask(pynvml, pynvml.nvmlDeviceGetPowerUsage, handle)
    return None if milliwatts is None else milliwatts / 1000


READINGS = (
    Reading("utilization_ratio", "Share of the last moments in which a kernel ran, from 0 to 1.", _utilization),
    Reading("memory_used_bytes", "Memory in use, by all processes.", _memory_used),
    Reading("memory_total_bytes", "Memory of the GPU.", _memory_total),
    Reading("power_watts", "Power draw.", _power),
)
LABELS = ("gpu", "uuid", "name")


class GpuCollector:
    """A collector of prometheus_client's: gauges of each GPU, none without a driver, and none that NVML refuses."""

    def __init__(self, uuids: Sequence[str]) -> None:
        """Report GPUs or MIG instances by their UUIDs; the label `gpu` is their position here, from 0."""
        self._uuids = tuple(uuids)

    def collect(self) -> Iterator[Any]:
        """Yield a family of gauges for each reading that some GPU has."""
        from prometheus_client.core import GaugeMetricFamily

        for reading, values in self._read().items():
            if values:
                family = GaugeMetricFamily(f"tuneport_gpu_{reading.name}", reading.text, labels=LABELS)
                for labels, value in values:
                    family.add_metric(labels, value)
                yield family

    def _read(self) -> dict[Reading, list[tuple[tuple[str, str, str], float]]]:
        """Ask NVML for everything at once; a driver that fails midway leaves out what it did not say."""
        found: dict[Reading, list[tuple[tuple[str, str, str], float]]] = {reading: [] for reading in READINGS}
        with nvml() as pynvml:
            for index, uuid in enumerate(self._uuids if pynvml else ()):
                handle = ask(pynvml, pynvml.nvmlDeviceGetHandleByUUID, uuid)
                if handle is None:
                    continue
                name = ask(pynvml, pynvml.nvmlDeviceGetName, handle) or ""
                labels = (str(index), uuid, name.decode() if isinstance(name, bytes) else name)
                for reading in READINGS:
                    if (value := reading.read(pynvml, handle)) is not None:
                        found[reading].append((labels, value))
        return found
