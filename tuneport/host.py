"""The host that figures are measured on: processor, instruction sets, usable cores, GPUs.

Imported while services start, so it needs only the standard library and pydantic.
"""

import math
import os
import platform
from pathlib import Path
from typing import Self

from tuneport.gpu import Gpu, nvidia_driver, visible_gpus
from tuneport.schema.base import Frozen

INSTRUCTION_SETS = (
    "avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "amx_bf16", "asimddp", "bf16",
)  # fmt: skip
"""Those that decide which precision is fast."""


class Host(Frozen):
    """The host that a figure was measured on."""

    cpu: str
    cores: int
    """Processors that this process may use, the container's quota included."""
    instructions: tuple[str, ...]
    """Of `INSTRUCTION_SETS`, those that the processor has."""
    memory_gib: float
    system: str
    gpus: tuple[Gpu, ...] = ()
    driver: str | None = None
    """Version of the NVIDIA driver."""
    cuda: str | None = None
    """Highest CUDA version that the driver supports."""

    @classmethod
    def here(cls) -> Self:
        """Describe this host."""
        flags, model = _cpuinfo()
        nvidia = nvidia_driver()
        memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
        return cls(
            cpu=model or platform.processor() or platform.machine(),
            cores=usable_cores(),
            instructions=tuple(flag for flag in INSTRUCTION_SETS if flag in flags),
            memory_gib=round(memory_gib, 1),
            system=f"{platform.system()} {platform.machine()}",
            gpus=visible_gpus(),
            driver=nvidia.version if nvidia else None,
            cuda=nvidia.cuda if nvidia else None,
        )

    @property
    def int8_saturates(self) -> bool:
        """Whether int8 kernels add pairs of products in 16 bits, which full ranges overflow: x86-64 without VNNI."""
        has_dot_product = {"avx512_vnni", "avx_vnni", "amx_int8"} & set(self.instructions)
        return self.system.endswith(("x86_64", "AMD64")) and not has_dot_product

    @property
    def has_bf16(self) -> bool:
        """Whether the processor multiplies bfloat16 itself; without that bf16 is slower than fp32."""
        return any(flag in self.instructions for flag in ("amx_bf16", "avx512_bf16", "bf16"))


def usable_cores() -> int:
    """Return how many processors this process may keep busy: its affinity, cut by the container's quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _cgroup_quota()
    return max(1, min(cores, math.ceil(quota))) if quota else cores


def _cgroup_quota() -> float | None:
    """Processors' worth of time that the control group grants (v2, then v1); None without a limit."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        pass
    try:
        v1 = Path("/sys/fs/cgroup/cpu")
        quota_us = int((v1 / "cpu.cfs_quota_us").read_text())
        return quota_us / int((v1 / "cpu.cfs_period_us").read_text()) if quota_us > 0 else None
    except (OSError, ValueError):
        return None


def _cpuinfo() -> tuple[set[str], str]:
    flags: set[str] = set()
    model = ""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() in {"flags", "Features"} and not flags:
                flags = set(value.split())
            elif key.strip() == "model name" and not model:
                model = value.strip()
    except OSError:
        pass
    return flags, model
