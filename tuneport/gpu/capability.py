"""Compute capabilities of NVIDIA GPUs, `major.minor`, from which something is possible."""

TURING = "7.5"
"""The oldest GPUs that onnxruntime-gpu's build for CUDA 13 has code for."""
AMPERE = "8.0"
"""The first GPUs that multiply TF32 and bfloat16. torch also accepts bfloat16 below, and emulates it."""


def capability_pair(capability: str) -> tuple[int, int]:
    """Return the numbers of `major.minor`, which torch gives as a pair and which compare by size."""
    major, minor = map(int, capability.split("."))
    return major, minor
