"""Which kernels compute torch's attention on a GPU."""

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def cudnn_attention(*, enabled: bool) -> Iterator[None]:
    """Let torch compute attention in cuDNN on CUDA, or not; the setting is the process's.

    On Hopper torch prefers cuDNN in fp16 and bf16, which builds a plan for each new (rows, length) before it runs. That
    takes a tenth of a second and more: batches of varying lengths hardly ever meet one that is built.
    """
    before = torch.backends.cuda.cudnn_sdp_enabled()  # type: ignore[no-untyped-call]
    torch.backends.cuda.enable_cudnn_sdp(enabled)
    try:
        yield
    finally:
        torch.backends.cuda.enable_cudnn_sdp(before)
