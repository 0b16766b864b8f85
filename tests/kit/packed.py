"""Run graphs for GPUs without one: NumPy versions of onnxruntime's operators, and `onnx.reference` for the others."""

import itertools
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
    for start, stop in itertools.pairwise(cumulative):
        q, k, v = (each[start:stop].astype(np.float32).swapaxes(0, 1) for each in (queries, keys, values))
        scores = q @ k.swapaxes(1, 2) * (scale or 1 / math.sqrt(q.shape[-1]))
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        out[start:stop] = (weights / weights.sum(-1, keepdims=True) @ v).swapaxes(0, 1)
    return out.reshape(len(out), -1)


class Contrib(OpRun):
    """An operator of onnxruntime's; `_run` gets the inputs, None for those that are left out, and the attributes."""

    op_domain = "com.microsoft"


class EmbedLayerNormalization(Contrib):
    def _run(self, *inputs: Any, **attributes: Any) -> tuple[Array, Array]:
        ids, types, words, positions, segments, gamma, beta, mask, position_ids = (*inputs, *[None] * 9)[:9]
        at = np.broadcast_to(np.arange(ids.shape[1]), ids.shape) if position_ids is None else position_ids
        summed = words[ids].astype(np.float32) + positions[at].astype(np.float32)
        if segments is not None:
            summed += segments[types].astype(np.float32)
        counts = np.zeros(len(ids), np.int32) if mask is None else mask.sum(1).astype(np.int32)
        return layer_norm(summed, gamma, beta, attributes.get("epsilon")).astype(words.dtype), counts


class SkipLayerNormalization(Contrib):
    def _run(self, *inputs: Any, **attributes: Any) -> tuple[Array]:
        x, skip, gamma, beta, bias = (*inputs, None, None)[:5]
        summed = x.astype(np.float32) + skip.astype(np.float32) + (0 if bias is None else bias.astype(np.float32))
        return (layer_norm(summed, gamma, beta, attributes.get("epsilon")).astype(x.dtype),)


class BiasGelu(Contrib):
    def _run(self, x: Array, bias: Array, **_: Any) -> tuple[Array]:
        return (gelu(x + bias).astype(x.dtype),)


class Gelu(Contrib):
    def _run(self, x: Array, **_: Any) -> tuple[Array]:
        return (gelu(x).astype(x.dtype),)


class MultiHeadAttention(Contrib):
    """Of padded rows; the mask is the number of tokens of each."""

    def _run(self, *inputs: Any, **attributes: Any) -> tuple[Array]:
        parts, bias, counts = inputs[:3], inputs[3], inputs[4]
        rows, length, hidden = parts[0].shape
        biases = np.split(np.zeros(3 * hidden, parts[0].dtype) if bias is None else bias, 3)
        heads = attributes["num_heads"]
        out = np.zeros((rows, length, hidden), np.float32)
        for row, count in enumerate(counts):
            q, k, v = ((x[row, :count] + b).reshape(count, heads, -1) for x, b in zip(parts, biases, strict=True))
            out[row, :count] = attend(q, k, v, np.array([0, count]), attributes.get("scale"))
        return (out.astype(parts[0].dtype),)


class PackedAttention(Contrib):
    def _run(self, x: Array, weights: Array, bias: Array, *rest: Any, **attributes: Any) -> tuple[Array]:
        projected = x.astype(np.float32) @ weights.astype(np.float32) + bias.astype(np.float32)
        q, k, v = (each.reshape(len(x), attributes["num_heads"], -1) for each in np.split(projected, 3, -1))
        return (attend(q, k, v, rest[1], attributes.get("scale")).astype(x.dtype),)


class PackedMultiHeadAttention(Contrib):
    def _run(self, qkv: Array, *rest: Any, **attributes: Any) -> tuple[Array]:
        assert qkv.ndim == 4, "queries, keys and values are packed: (tokens, heads, 3, size)"
        q, k, v = (qkv[:, :, i] for i in range(3))
        return (attend(q, k, v, rest[4], attributes.get("scale")).astype(qkv.dtype),)


class RestorePadding(Contrib):
    def _run(self, x: Array, offset: Array, **_: Any) -> tuple[Array]:
        padded = np.zeros((offset.size, x.shape[1]), x.dtype)
        padded[offset.reshape(-1)[: len(x)]] = x
        return (padded.reshape(*offset.shape, -1),)


OPERATORS: Sequence[type[OpRun]] = [
    EmbedLayerNormalization, SkipLayerNormalization, BiasGelu, Gelu, MultiHeadAttention, PackedAttention,
    PackedMultiHeadAttention, RestorePadding,
]  # fmt: skip


class ReferenceBackend:
    """Runs a graph in `onnx.reference`; a `Backend`."""

    streams = 1
    length_multiple = 1

    def __init__(self, model: onnx.ModelProto) -> None:
        self._session = ReferenceEvaluator(model, new_ops=list(OPERATORS))

    def run(self, batch: Batch) -> dict[str, Output]:
        feeds = {name: batch.feeds[name] for name in self._session.input_names}
        return dict(zip(self._session.output_names, self._session.run(None, feeds), strict=True))
