"""Run packed graphs without a GPU: NumPy versions of the contrib operators that have no CPU kernel, or need a contrib one.

`onnx.reference` runs the rest of the graph, so that its meaning is proven where no kernel can run it.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from tuneport.runtime.batch import Batch, Output

Array = npt.NDArray[Any]


def layer_norm(x: Array, gamma: Array, beta: Array | None, epsilon: float | None) -> Array:
    x = x.astype(np.float32)
    centred = x - x.mean(-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + (epsilon or 1e-12)) * gamma.astype(np.float32)
    return scaled if beta is None else scaled + beta.astype(np.float32)


def gelu(x: Array) -> Array:
    x = x.astype(np.float32)
    erf = np.vectorize(math.erf, otypes=[np.float32])
    return x * np.float32(0.5) * (1 + erf(x / np.float32(math.sqrt(2))))


def attend(queries: Array, keys: Array, values: Array, cumulative: Array, scale: float | None) -> Array:
    """Let each row attend to itself; (tokens, heads, size) each, row i is cumulative[i]:cumulative[i + 1]."""
    out = np.zeros(queries.shape, np.float32)
    for start, stop in zip(cumulative[:-1], cumulative[1:], strict=True):
        q, k, v = (each[start:stop].astype(np.float32).swapaxes(0, 1) for each in (queries, keys, values))
        scores = q @ k.swapaxes(1, 2) * (scale or 1 / math.sqrt(q.shape[-1]))
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        out[start:stop] = (weights / weights.sum(-1, keepdims=True) @ v).swapaxes(0, 1)
    return out.reshape(len(out), -1)


class Contrib(OpRun):
    op_domain = "com.microsoft"


class EmbedLayerNormalization(Contrib):
    def _run(self, ids, types, words, positions, segments, gamma, beta, mask=None, position_ids=None, epsilon=None, mask_index_type=None):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202, E501
        summed = words[ids].astype(np.float32) + positions[position_ids].astype(np.float32)
        if segments is not None:
            summed += segments[types].astype(np.float32)
        return layer_norm(summed, gamma, beta, epsilon).astype(words.dtype), np.zeros(len(ids), np.int32)


class SkipLayerNormalization(Contrib):
    def _run(self, x, skip, gamma, beta=None, bias=None, epsilon=None):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
        summed = x.astype(np.float32) + skip.astype(np.float32) + (0 if bias is None else bias.astype(np.float32))
        return (layer_norm(summed, gamma, beta, epsilon).astype(x.dtype),)


class BiasGelu(Contrib):
    def _run(self, x, bias):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
        return (gelu(x + bias).astype(x.dtype),)


class Gelu(Contrib):
    def _run(self, x, approximate=None):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
        return (gelu(x).astype(x.dtype),)


class PackedAttention(Contrib):
    def _run(self, x, weights, bias, offset, cumulative, attention_bias=None, num_heads=None, scale=None, qkv_hidden_sizes=None):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202, E501
        projected = x.astype(np.float32) @ weights.astype(np.float32) + bias.astype(np.float32)
        parts = (each.reshape(len(x), num_heads, -1) for each in np.split(projected, 3, -1))
        return (attend(*parts, cumulative, scale).astype(x.dtype),)


class PackedMultiHeadAttention(Contrib):
    def _run(self, qkv, key=None, value=None, bias=None, offset=None, cumulative=None, attention_bias=None, num_heads=None, scale=None, mask_filter_value=None):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202, E501
        assert qkv.ndim == 4, "queries, keys and values are packed: (tokens, heads, 3, size)"
        return (attend(qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2], cumulative, scale).astype(qkv.dtype),)


class RestorePadding(Contrib):
    def _run(self, x, offset):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
        padded = np.zeros((offset.size, x.shape[1]), x.dtype)
        padded[offset.reshape(-1)[: len(x)]] = x
        return (padded.reshape(*offset.shape, -1),)


OPERATORS: Sequence[type[OpRun]] = [
    EmbedLayerNormalization, SkipLayerNormalization, BiasGelu, Gelu, PackedAttention, PackedMultiHeadAttention,
    RestorePadding,
]  # fmt: skip


class ReferenceBackend:
    """Runs a packed graph in `onnx.reference`; a `Backend`."""

    streams = 1
    length_multiple = 1

    def __init__(self, model: onnx.ModelProto) -> None:
        self._session = ReferenceEvaluator(model, new_ops=list(OPERATORS))

    def run(self, batch: Batch) -> dict[str, Output]:
        feeds = {name: batch.feeds[name] for name in self._session.input_names}
        return dict(zip(self._session.output_names, self._session.run(None, feeds), strict=True))
