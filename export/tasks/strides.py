"""Windows over long inputs: how far they overlap."""

from export.checkpoint import Checkpoint


def stride_of(checkpoint: Checkpoint) -> int:
    """Return the tokens that neighbouring windows share: the run's `doc_stride`, at most a quarter of a window."""
    wanted = checkpoint.run.config.get("doc_stride") if checkpoint.run else None
    return min(wanted or 128, checkpoint.max_length // 4)
