"""Compute the overlap of windows over long inputs."""

from ..checkpoint import Checkpoint

DEFAULT_STRIDE = 128


def stride_of(checkpoint: Checkpoint) -> int:
    """Return the tokens that neighbouring windows share: the run's `doc_stride`, at most a quarter of a window."""
    configured = checkpoint.run.config.get("doc_stride") if checkpoint.run else None
    return min(configured or DEFAULT_STRIDE, checkpoint.max_length // 4)
