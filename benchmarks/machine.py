"""What a figure depends on besides the processor: its governor and clocks, its load, and the versions of libraries."""

import os
import re
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Self

import torch

from tuneport.schema.base import Frozen
from tuneport.schema.torch_setup import TorchDevice

LIBRARIES = ("tuneport", "torch", "transformers", "onnxruntime", "onnxruntime-gpu", "openvino", "tokenizers", "bentoml")
CPUFREQ = Path("/sys/devices/system/cpu/cpu0/cpufreq")
PRODUCT_SIZE: dict[TorchDevice, int] = {"cpu": 1024, "cuda": 8192}
"""Rows and columns of the matrices whose product is timed."""
PRODUCT_SECONDS, MIN_PRODUCTS = 0.3, 3


class MachineState(Frozen):
    """The state of the machine when a benchmark began."""

    governor: str | None
    """Of the first processor's clock; None where the kernel does not tell, as in most virtual machines."""
    cpu_mhz: float | None
    """Mean of the processors' clocks."""
    max_cpu_mhz: float | None
    load_average: float
    """Processes that wanted a processor in the last minute; the benchmark itself has not begun."""
    versions: dict[str, str]
    processors: int | None = None
    """Of the whole machine, also those that this process may not use; None in older reports."""
    product_tflops: dict[str, float]
    """Precision → the highest rate of a large matrix product in torch, in TFLOP/s; empty where it was not measured."""

    @classmethod
    def now(cls, device: TorchDevice | None = None) -> Self:
        """Read the state; with a device measure its matrix products, too, which takes about a second."""
        max_khz = _read(CPUFREQ / "cpuinfo_max_freq")
        return cls(
            governor=_read(CPUFREQ / "scaling_governor"),
            cpu_mhz=_mean_mhz(),
            max_cpu_mhz=int(max_khz) / 1000 if max_khz else None,
            load_average=round(os.getloadavg()[0], 2),
            versions=_versions(),
            processors=os.cpu_count(),
            product_tflops=product_tflops(device) if device else {},
        )

    def describe(self) -> str:
        """Name governor, clocks and load in a sentence."""
        clock = "" if self.cpu_mhz is None else f", clock {self.cpu_mhz:.0f} MHz"
        highest = "" if self.max_cpu_mhz is None else f" of {self.max_cpu_mhz:.0f}"
        governor = self.governor or "not told by the kernel"
        return f"Governor: {governor}{clock}{highest}; load average before the start {self.load_average:g}."


def product_tflops(device: TorchDevice) -> dict[str, float]:
    """Measure the highest rate of a product of two square matrices, in each precision that models run in."""
    dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16}
    if device == "cuda":
        dtypes["fp16"] = torch.float16
    return {name: _product_tflops(device, dtype) for name, dtype in dtypes.items()}


def _product_tflops(device: TorchDevice, dtype: torch.dtype) -> float:
    size = PRODUCT_SIZE[device]
    one = torch.ones((size, size), device=device, dtype=dtype)
    fastest, runs, ends_at = float("inf"), 0, time.perf_counter() + PRODUCT_SECONDS
    with torch.inference_mode():
        one @ one
        while runs < MIN_PRODUCTS or time.perf_counter() < ends_at:
            _wait(device)
            started = time.perf_counter()
            one @ one
            _wait(device)
            fastest, runs = min(fastest, time.perf_counter() - started), runs + 1
    return round(2 * size**3 / fastest / 1e12, 4)


def _wait(device: TorchDevice) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _versions() -> dict[str, str]:
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _read(file: Path) -> str | None:
    try:
        return file.read_text(encoding="ascii").strip() or None
    except (OSError, ValueError):
        return None


def _mean_mhz() -> float | None:
    clocks = [float(each) for each in re.findall(r"^cpu MHz\s*: ([\d.]+)", _read(Path("/proc/cpuinfo")) or "", re.M)]
    return round(sum(clocks) / len(clocks), 1) if clocks else None
