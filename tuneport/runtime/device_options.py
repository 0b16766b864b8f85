"""What a deployment sets for a variant's device, beside what the export measured."""

from dataclasses import dataclass
from typing import Literal

ArenaStrategy = Literal["kNextPowerOfTwo", "kSameAsRequested"]
"""How onnxruntime's memory arena grows on a GPU: by ever larger blocks, or by what a batch needs."""


@dataclass(frozen=True, slots=True)
class DeviceOptions:
    """Memory on a GPU; both are left to the variant and to onnxruntime where they are None."""

    gpu_memory_bytes: int | None = None
    """Limit of a session's memory arena; what CUDA, cuBLAS and cuDNN need comes on top."""
    arena_strategy: ArenaStrategy | None = None

    def cuda_options(self) -> dict[str, str]:
        """Return the options of onnxruntime's CUDA execution provider."""
        options = {"gpu_mem_limit": self.gpu_memory_bytes, "arena_extend_strategy": self.arena_strategy}
        return {name: str(value) for name, value in options.items() if value is not None}


NO_OPTIONS = DeviceOptions()
