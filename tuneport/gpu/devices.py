"""The GPUs and MIG instances of this host, and its driver, as NVML describes them."""

from dataclasses import dataclass
from typing import Any

from tuneport.gpu.nvml import ask, nvml, text
from tuneport.schema.base import Frozen

MIG_NAME = "MIG-"
"""How UUIDs of MIG instances start; older drivers name an instance `MIG-GPU-UUID/GI/CI`."""


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


class Driver(Frozen):
    """Versions of the NVIDIA driver."""

    version: str
    cuda: str
    """Highest CUDA version that the driver supports."""


@dataclass(frozen=True)
class Device:
    """A handle of NVML: a whole GPU, or a MIG instance."""

    handle: Any
    uuid: str
    parent: "Device | None" = None
    """The GPU of an instance."""
    names: tuple[str, ...] = ()
    """What CUDA_VISIBLE_DEVICES may call it."""

    def describe(self, pynvml: Any) -> Gpu:
        """Ask for what describes it; an instance has clocks, power and compute capability of its GPU."""
        card = (self.parent or self).handle
        major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(card)
        memory = ask(pynvml, pynvml.nvmlDeviceGetMemoryInfo, self.handle)  # unsupported where the host shares it
        power_limit_mw = ask(pynvml, pynvml.nvmlDeviceGetEnforcedPowerLimit, card)
        return Gpu(
            name=text(pynvml.nvmlDeviceGetName(self.handle)),
            compute_capability=f"{major}.{minor}",
            memory_gib=0.0 if memory is None else round(memory.total / 2**30, 1),
            uuid=self.uuid,
            is_mig=self.parent is not None,
            max_sm_clock_mhz=ask(pynvml, pynvml.nvmlDeviceGetMaxClockInfo, card, pynvml.NVML_CLOCK_SM),
            max_memory_clock_mhz=ask(pynvml, pynvml.nvmlDeviceGetMaxClockInfo, card, pynvml.NVML_CLOCK_MEM),
            power_limit_w=None if power_limit_mw is None else power_limit_mw / 1000,
        )


@dataclass(frozen=True)
class Card:
    """A GPU of this host; its instances if it is in MIG mode, else None."""

    device: Device
    instances: tuple[Device, ...] | None

    @property
    def usable(self) -> tuple[Device, ...]:
        """What CUDA can open of it."""
        return (self.device,) if self.instances is None else self.instances


def list_cards(pynvml: Any) -> list[Card]:
    """Return the GPUs of this host in the order of the PCI bus. Raises NVMLError."""
    cards = []
    for index in range(pynvml.nvmlDeviceGetCount()):
        handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        uuid = text(pynvml.nvmlDeviceGetUUID(handle))
        device = Device(handle, uuid, names=(uuid,))
        mode = ask(pynvml, pynvml.nvmlDeviceGetMigMode, handle)  # unsupported before Ampere
        in_mig_mode = mode is not None and mode[0] == pynvml.NVML_DEVICE_MIG_ENABLE
        cards.append(Card(device, _instances(pynvml, device) if in_mig_mode else None))
    return cards


def _instances(pynvml: Any, card: Device) -> tuple[Device, ...]:
    instances = []
    for index in range(pynvml.nvmlDeviceGetMaxMigDeviceCount(card.handle)):
        handle = ask(pynvml, pynvml.nvmlDeviceGetMigDeviceHandleByIndex, card.handle, index)
        if handle is None:  # a place without an instance
            continue
        uuid = text(pynvml.nvmlDeviceGetUUID(handle))
        ids = (pynvml.nvmlDeviceGetGpuInstanceId(handle), pynvml.nvmlDeviceGetComputeInstanceId(handle))
        old_name = f"{MIG_NAME}{card.uuid}/{ids[0]}/{ids[1]}"
        instances.append(Device(handle, uuid, parent=card, names=(uuid, old_name)))
    return tuple(instances)


def nvidia_driver() -> Driver | None:
    """Return the versions of the driver, or None without one."""
    with nvml() as pynvml:
        if pynvml is None:
            return None
        cuda = ask(pynvml, pynvml.nvmlSystemGetCudaDriverVersion)
        version = ask(pynvml, pynvml.nvmlSystemGetDriverVersion)
        if cuda is None or version is None:
            return None
        return Driver(version=text(version), cuda=f"{cuda // 1000}.{cuda % 1000 // 10}")
