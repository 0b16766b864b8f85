"""The options of an execution provider, and the shapes of batches that a GPU is prepared for."""

from collections.abc import Sequence

import numpy as np

from tuneport.runtime.backends.tensorrt import profile_options
from tuneport.runtime.batch import EncodedInput
from tuneport.schema.artifact import Device, Shape

from .variants import VariantSpec

GRAPH_ROWS = (1, 2, 4, 8, 16)
MAX_GRAPH_TOKENS = 2048
"""Larger batches keep a GPU busy for longer than the launch of their kernels takes."""
LENGTH_STEP = 16
ATTENTION_WITHOUT_CUDNN = 1 | 2 | 4 | 16
"""onnxruntime's bits for flash, memory-efficient, TensorRT's and plain attention; 8 is cuDNN's."""
TYPICAL_ROWS, TENSORRT_ROWS = 8, 256
"""Rows of the batch that TensorRT's engine is tuned for, and of the largest that it takes."""


def provider_options(
    spec: VariantSpec, device: Device, inputs: Sequence[str], rows: Sequence[EncodedInput], max_length: int
) -> dict[str, str]:
    """Return the options of a variant's execution provider; `rows` show the lengths of the user's inputs.

    TensorRT's need the names of the graph's inputs.

    CUDA computes fp32 in fp32: TF32, its default, misses the tolerance of exact variants. Attention of padded batches
    runs without cuDNN, which builds a plan for each new (rows, length), in the middle of requests.
    """
    options = dict(spec.provider_options)
    if device == "cuda":
        options["use_tf32"] = "0"
        if spec.layout == "padded" and spec.precision in ("fp16", "bf16"):
            options["sdpa_kernel"] = str(ATTENTION_WITHOUT_CUDNN)
    if device == "tensorrt":
        typical = min(_round_up(float(np.median([len(row) for row in rows] or [LENGTH_STEP]))), max_length)
        options |= profile_options(inputs, typical=(TYPICAL_ROWS, typical), largest=(TENSORRT_ROWS, max_length))
    return options


def graph_shapes(rows: Sequence[EncodedInput], max_length: int) -> tuple[Shape, ...]:
    """Return the shapes of CUDA graphs for small batches: rows by powers of two, lengths that cover the user's inputs.

    Lengths double from `LENGTH_STEP` up to the longest input's, so that a batch is padded to less than twice its own.
    """
    longest = min(_round_up(max((len(row) for row in rows), default=LENGTH_STEP)), max_length)
    lengths = {longest} | {LENGTH_STEP << i for i in range(10) if LENGTH_STEP << i < longest}
    return tuple(
        (count, length) for count in GRAPH_ROWS for length in sorted(lengths) if count * length <= MAX_GRAPH_TOKENS
    )


def _round_up(length: float) -> int:
    return -(-int(np.ceil(length)) // LENGTH_STEP) * LENGTH_STEP
