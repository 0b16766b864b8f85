"""NVIDIA GPUs through NVML: which of them this process may use, and what they do while something is measured.

Imported while services start, so it needs only the standard library and pydantic; NVML is asked where it is installed.
"""

import contextlib
import itertools
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from tuneport.schema.base import Frozen

VISIBLE = "CUDA_VISIBLE_DEVICES"
GPU_NAME, MIG_NAME = "GPU-", "MIG-"
"""How UUIDs of whole GPUs and of MIG instances start; older drivers name an instance `MIG-GPU-UUID/GI/CI`."""


class Gpu(Frozen):
    """An NVIDIA GPU, or one MIG instance of it."""

    name: str
    """As the driver reports it; an instance's name ends with its profile, such as `MIG 1g.10gb`."""
    compute_capability: str
    """`major.minor`, such as `9.0` for H100."""
    memory_gib: float
    uuid: str | None = None
    """What selects exactly this GPU or instance in CUDA_VISIBLE_DEVICES."""
    is_mig: bool = False
    """Whether it is a MIG instance: a part of a GPU with its own memory."""
    max_sm_clock_mhz: int | None = None
    max_memory_clock_mhz: int | None = None
    power_limit_w: float | None = None
    """Of the whole GPU."""

    def has(self, compute_capability: str) -> bool:
        """Tell whether its compute capability is at least another, `major.minor`."""
        mine, needed = (tuple(map(int, each.split("."))) for each in (self.compute_capability, compute_capability))
        return mine >= needed

    def is_like(self, other: "Gpu") -> bool:
        """Tell whether timings of the other GPU hold for this one: the same model, memory and power limit."""
        ignored = {"uuid"}
        return self.model_dump(exclude=ignored) == other.model_dump(exclude=ignored)


class GpuUsage(Frozen):
    """What a model did with a GPU while it was measured; None where NVML does not tell, and without a GPU.

    NVML counts all processes, so nothing else may use the GPU. It counts energy and utilization of whole GPUs alone.
    """

    memory_mib: float | None = None
    """GPU memory that opening and running it added."""
    utilization: float | None = None
    """Mean share of the time in which the GPU ran a kernel, 0 to 1."""
    energy_j_per_1000_texts: float | None = None


class Driver(Frozen):
    """Versions of the NVIDIA driver."""

    version: str
    cuda: str
    """Highest CUDA version that the driver supports."""


@contextlib.contextmanager
def nvml() -> Iterator[Any]:
    """Open NVML and yield pynvml, or None without the package, the library, the driver or the permission."""
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # ImportError, an OSError of the library's, or pynvml's own, by the driver's state
        yield None
        return
    try:
        yield pynvml
    finally:
        with contextlib.suppress(pynvml.NVMLError):  # the driver may be gone by now
            pynvml.nvmlShutdown()


def visible_gpus() -> tuple[Gpu, ...]:
    """Return the GPUs and MIG instances that this process may use, in CUDA's order; empty without a driver.

    CUDA_VISIBLE_DEVICES is read as CUDA reads it: numbers, UUIDs or unique beginnings of them, MIG names; what follows
    an invalid one does not count, and a repeated one leaves none. A GPU in MIG mode stands for all of its instances.
    CUDA opens only the first instance that a process may use: give each process the `uuid` of one.
    Numbers count in the order of the PCI bus, which is CUDA's for like GPUs and with CUDA_DEVICE_ORDER=PCI_BUS_ID.
    """
    with nvml() as pynvml:
        if pynvml is None:
            return ()
        try:
            cards = _cards(pynvml)
            return tuple(device.describe(pynvml) for device in _selected(cards, os.environ.get(VISIBLE)))
        except pynvml.NVMLError:  # lost while it was asked
            return ()


def unknown_entry() -> str | None:
    """Return the first entry of CUDA_VISIBLE_DEVICES that is no GPU of this host; None without one, or a driver.

    CUDA ignores such an entry and all that follow. An empty value, and a number below 0, hide every GPU on purpose.
    """
    with nvml() as pynvml:
        if pynvml is None:
            return None
        try:
            cards = _cards(pynvml)
        except pynvml.NVMLError:
            return None
    entries = [each.strip() for each in os.environ.get(VISIBLE, "").split(",")]
    for entry in itertools.takewhile(lambda each: each and not each.startswith("-"), entries):
        if _find(cards, entry) is None:
            return entry
    return None


def nvidia_driver() -> Driver | None:
    """Return the versions of the driver, or None without one."""
    with nvml() as pynvml:
        if pynvml is None:
            return None
        cuda = ask(pynvml, pynvml.nvmlSystemGetCudaDriverVersion)
        version = ask(pynvml, pynvml.nvmlSystemGetDriverVersion)
        if cuda is None or version is None:
            return None
        return Driver(version=_text(version), cuda=f"{cuda // 1000}.{cuda % 1000 // 10}")


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


@contextlib.contextmanager
def _polling(pynvml: Any, handle: Any, totals: GpuTotals, interval_s: float, *, only_memory: bool) -> Iterator[None]:
    """Poll a GPU in a thread; at the end add the growth of its memory, and the utilization of each poll."""
    peak = before = _used(pynvml, handle)
    is_over = threading.Event()

    def poll() -> None:
        nonlocal peak
        while not is_over.wait(interval_s):
            peak = max(peak, _used(pynvml, handle))
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
        totals.memory += max(peak, _used(pynvml, handle)) - before


def _used(pynvml: Any, handle: Any) -> int:
    """Return the bytes in use; 0 if NVML does not tell."""
    memory = ask(pynvml, pynvml.nvmlDeviceGetMemoryInfo, handle)
    return int(memory.used) if memory is not None else 0


@dataclass(frozen=True)
class _Device:
    """A handle of NVML: a whole GPU, or a MIG instance."""

    handle: Any
    uuid: str
    parent: "_Device | None" = None
    """The GPU of an instance."""
    names: tuple[str, ...] = ()
    """What CUDA_VISIBLE_DEVICES may call it."""

    def describe(self, pynvml: Any) -> Gpu:
        """Ask for what describes it; an instance has clocks, power and compute capability of its GPU."""
        card = (self.parent or self).handle
        major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(card)
        power_limit_mw = ask(pynvml, pynvml.nvmlDeviceGetEnforcedPowerLimit, card)
        return Gpu(
            name=_text(pynvml.nvmlDeviceGetName(self.handle)),
            compute_capability=f"{major}.{minor}",
            memory_gib=round(pynvml.nvmlDeviceGetMemoryInfo(self.handle).total / 2**30, 1),
            uuid=self.uuid,
            is_mig=self.parent is not None,
            max_sm_clock_mhz=ask(pynvml, pynvml.nvmlDeviceGetMaxClockInfo, card, pynvml.NVML_CLOCK_SM),
            max_memory_clock_mhz=ask(pynvml, pynvml.nvmlDeviceGetMaxClockInfo, card, pynvml.NVML_CLOCK_MEM),
            power_limit_w=None if power_limit_mw is None else power_limit_mw / 1000,
        )


@dataclass(frozen=True)
class _Card:
    """A GPU of this host; its instances if it is in MIG mode, else None."""

    device: _Device
    instances: tuple[_Device, ...] | None

    @property
    def usable(self) -> tuple[_Device, ...]:
        return (self.device,) if self.instances is None else self.instances


def ask(pynvml: Any, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function of NVML's; None for what the GPU does not support or this process may not ask."""
    try:
        return function(*arguments)
    except pynvml.NVMLError:
        return None


def _cards(pynvml: Any) -> list[_Card]:
    cards = []
    for index in range(pynvml.nvmlDeviceGetCount()):
        handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        uuid = _text(pynvml.nvmlDeviceGetUUID(handle))
        device = _Device(handle, uuid, names=(uuid,))
        mode = ask(pynvml, pynvml.nvmlDeviceGetMigMode, handle)  # unsupported before Ampere
        in_mig_mode = mode is not None and mode[0] == pynvml.NVML_DEVICE_MIG_ENABLE
        cards.append(_Card(device, _instances(pynvml, device) if in_mig_mode else None))
    return cards


def _instances(pynvml: Any, card: _Device) -> tuple[_Device, ...]:
    instances = []
    for index in range(pynvml.nvmlDeviceGetMaxMigDeviceCount(card.handle)):
        handle = ask(pynvml, pynvml.nvmlDeviceGetMigDeviceHandleByIndex, card.handle, index)
        if handle is None:  # a place without an instance
            continue
        uuid = _text(pynvml.nvmlDeviceGetUUID(handle))
        ids = (pynvml.nvmlDeviceGetGpuInstanceId(handle), pynvml.nvmlDeviceGetComputeInstanceId(handle))
        old_name = f"{MIG_NAME}{card.uuid}/{ids[0]}/{ids[1]}"
        instances.append(_Device(handle, uuid, parent=card, names=(uuid, old_name)))
    return tuple(instances)


def _selected(cards: list[_Card], visible: str | None) -> list[_Device]:
    """Return what CUDA_VISIBLE_DEVICES leaves of the devices, in its order."""
    if visible is None:
        return [device for card in cards for device in card.usable]
    selected: list[_Device] = []
    for entry in (each.strip() for each in visible.split(",")):
        found = _find(cards, entry)
        if found is None:
            break
        if any(device in selected for device in found):
            return []
        selected += found
    return selected


def _find(cards: list[_Card], entry: str) -> tuple[_Device, ...] | None:
    """Return the devices of one entry; None if it names none, or several."""
    if entry.isdecimal():
        return cards[int(entry)].usable if int(entry) < len(cards) else None
    candidates: list[tuple[tuple[_Device, ...], tuple[str, ...]]]
    if entry.startswith(MIG_NAME):
        candidates = [((each,), each.names) for card in cards for each in card.instances or ()]
    elif entry.startswith(GPU_NAME):
        candidates = [(card.usable, card.device.names) for card in cards]
    else:
        return None
    exact = [devices for devices, names in candidates if entry in names]  # …/1/1 is also the beginning of …/1/10
    found = exact or [devices for devices, names in candidates if any(name.startswith(entry) for name in names)]
    return found[0] if len(found) == 1 else None


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
