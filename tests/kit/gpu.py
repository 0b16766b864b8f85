"""What the tests marked `gpu` need."""

import functools


@functools.cache
def missing_for_gpu() -> str | None:
    """Return what keeps tests on a GPU from running here; None if nothing does."""
    import onnxruntime
    import torch

    from tuneport.gpu import visible_gpus

    if not visible_gpus():
        return "no NVIDIA GPU is visible: NVML finds no driver, or CUDA_VISIBLE_DEVICES hides all GPUs"
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is built without CUDA"
    if not torch.cuda.is_available():
        return f"torch {torch.__version__} cannot use the GPU"
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        return "onnxruntime has no CUDAExecutionProvider: onnxruntime-gpu is not installed"
    return None
