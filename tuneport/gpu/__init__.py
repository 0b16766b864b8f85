"""NVIDIA GPUs through NVML: which of them this process may use, and what they do while something is measured.

Imported while services start, so it needs only the standard library and pydantic; NVML is asked where it is installed.
"""

from tuneport.gpu.capability import AMPERE, TURING, capability_pair
from tuneport.gpu.devices import Driver, Gpu, nvidia_driver
from tuneport.gpu.meter import GpuMeter, GpuTotals, GpuUsage, memory_in_use
from tuneport.gpu.nvml import ask, nvml
from tuneport.gpu.selection import (
    VISIBLE,
    has_unnamed_gpu,
    listed_entries,
    unknown_entry,
    use_first_gpu,
    visible_gpus,
)

__all__ = [
    "AMPERE",
    "TURING",
    "VISIBLE",
    "Driver",
    "Gpu",
    "GpuMeter",
    "GpuTotals",
    "GpuUsage",
    "ask",
    "capability_pair",
    "has_unnamed_gpu",
    "listed_entries",
    "memory_in_use",
    "nvidia_driver",
    "nvml",
    "unknown_entry",
    "use_first_gpu",
    "visible_gpus",
]
