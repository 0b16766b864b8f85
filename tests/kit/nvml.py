"""A stand-in for pynvml, with GPUs as a test describes them; the calls are recorded."""

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any


class NVMLError(Exception):
    """As pynvml raises it, with NVML's code."""


@dataclass
class FakeGpu:
    """A GPU, or one of its MIG instances."""

    uuid: str
    name: str = "NVIDIA H100 80GB HBM3"
    capability: tuple[int, int] = (9, 0)
    memory: int = 80 * 2**30
    used: int = 2**30
    mig_mode: int | None = 0
    """None: NVML says that MIG is not supported."""
    instances: dict[int, "FakeGpu"] = field(default_factory=dict)
    """By their place."""
    gpu_instance: int | None = None
    """Of an instance; it has no clocks, utilization or power of its own."""
    compute_instance: int = 0
    utilization: int = 50
    energy_mj: int | None = 1_000
    """None: NVML says that the GPU counts no energy."""


class FakeNvml:
    """The module pynvml, as far as tuneport calls it; handles are the FakeGpus themselves."""

    NVMLError = NVMLError
    NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_DEVICE_MIG_ENABLE = 1, 2, 1

    def __init__(self, *gpus: FakeGpu) -> None:
        self.gpus = gpus
        self.calls: list[str] = []
        self.opened = 0

    def nvmlInit(self) -> None:
        self.opened += 1

    def nvmlShutdown(self) -> None:
        self.opened -= 1

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("nvml"):
            self.calls.append(name)
        return object.__getattribute__(self, name)

    def nvmlSystemGetCudaDriverVersion(self) -> int:
        return 13010

    def nvmlSystemGetDriverVersion(self) -> str:
        return "590.44.01"

    def nvmlDeviceGetCount(self) -> int:
        assert self.opened > 0
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> FakeGpu:
        return self.gpus[index]

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> FakeGpu:
        every = [*self.gpus, *(each for gpu in self.gpus for each in gpu.instances.values())]
        for gpu in every:
            if gpu.uuid == uuid:
                return gpu
        raise NVMLError("not found")

    def nvmlDeviceGetUUID(self, gpu: FakeGpu) -> str:
        return gpu.uuid

    def nvmlDeviceGetName(self, gpu: FakeGpu) -> bytes:
        return gpu.name.encode()

    def nvmlDeviceGetCudaComputeCapability(self, gpu: FakeGpu) -> tuple[int, int]:
        return self._whole(gpu).capability

    def nvmlDeviceGetMemoryInfo(self, gpu: FakeGpu) -> Any:
        return SimpleNamespace(total=gpu.memory, used=gpu.used)

    def nvmlDeviceGetMigMode(self, gpu: FakeGpu) -> list[int]:
        if gpu.mig_mode is None:
            raise NVMLError("not supported")
        return [gpu.mig_mode, gpu.mig_mode]

    def nvmlDeviceGetMaxMigDeviceCount(self, gpu: FakeGpu) -> int:
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, gpu: FakeGpu, index: int) -> FakeGpu:
        if index not in gpu.instances:
            raise NVMLError("not found")
        return gpu.instances[index]

    def nvmlDeviceGetGpuInstanceId(self, gpu: FakeGpu) -> int:
        assert gpu.gpu_instance is not None
        return gpu.gpu_instance

    def nvmlDeviceGetComputeInstanceId(self, gpu: FakeGpu) -> int:
        return gpu.compute_instance

    def nvmlDeviceGetMaxClockInfo(self, gpu: FakeGpu, kind: int) -> int:
        self._whole(gpu)
        return {1: 1980, 2: 2619}[kind]

    def nvmlDeviceGetEnforcedPowerLimit(self, gpu: FakeGpu) -> int:
        self._whole(gpu)
        return 700_000

    def nvmlDeviceGetPowerUsage(self, gpu: FakeGpu) -> int:
        self._whole(gpu)
        return 350_500

    def nvmlDeviceGetUtilizationRates(self, gpu: FakeGpu) -> Any:
        return SimpleNamespace(gpu=self._whole(gpu).utilization, memory=10)

    def nvmlDeviceGetTotalEnergyConsumption(self, gpu: FakeGpu) -> int:
        energy_mj = self._whole(gpu).energy_mj
        if energy_mj is None:
            raise NVMLError("not supported")
        return energy_mj

    def _whole(self, gpu: FakeGpu) -> FakeGpu:
        if gpu.gpu_instance is not None:
            raise NVMLError("not supported")
        return gpu
