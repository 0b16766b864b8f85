"""Time all targets on batches of fixed shapes, in turns."""

import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from tuneport.errors import TuneportError
from tuneport.runtime.batch import EncodedInput
from tuneport.schema.artifact import Interval
from tuneport.schema.base import Frozen
from tuneport.schema.torch_setup import TorchSetup
from tuneport.stages.export.intervals import median_interval
from tuneport.stages.export.reference import TorchModel
from tuneport.stages.export.target import BenchmarkTarget

SHAPE = re.compile(r"([1-9]\d*)x([1-9]\d*)")
SECONDS, MAX_SECONDS = 0.4, 5.0
"""For each target and shape, the warm-up apart; the larger one for batches of which few fit into the smaller."""
MIN_RUNS, MAX_RUNS = 3, 50

CUDNN = "attention in cuDNN"
CUDNN_NOTE = "On fixed shapes torch's attention runs with and without cuDNN, and the faster of both counts: {names}."


class ShapeTiming(Frozen):
    """One target on batches of one shape."""

    rows: int
    tokens: int
    """Of each row."""
    latency_ms: float
    """Median of the runs."""
    latency_ms_interval: Interval
    tokens_per_s: float

    @property
    def name(self) -> str:
        """Return the shape as text."""
        return f"{self.rows} × {self.tokens}"


def parse_shapes(texts: Sequence[str]) -> list[tuple[int, int]]:
    """Parse shapes such as 8x128; raises TuneportError for what is none."""
    shapes = []
    for text in texts:
        match = SHAPE.fullmatch(text)
        if match is None:
            raise TuneportError(f"{text!r} is no shape", "write rows x tokens, such as 8x128")
        shapes.append((int(match[1]), int(match[2])))
    return shapes


def time_shapes(
    targets: Mapping[str, BenchmarkTarget],
    rows: Sequence[EncodedInput],
    shapes: Sequence[tuple[int, int]],
    *,
    max_length: int,
    ends_at: float = math.inf,
    progress: Callable[[str], object] = lambda _: None,
) -> tuple[dict[str, tuple[ShapeTiming, ...]], tuple[str, ...]]:
    """Return the timings of each target by name, and a sentence on the shapes that are longer than the model allows.

    Rows of a shape are the longest real one, cut or repeated to its length. No shape is begun after `ends_at`, a time
    of `time.monotonic`.
    """
    fitting = [shape for shape in shapes if shape[1] <= max_length]
    timings: dict[str, list[ShapeTiming]] = {name: [] for name in targets}
    for shape in fitting:
        if time.monotonic() > ends_at:
            break
        progress(f"timing {shape[0]} × {shape[1]}")
        batch = [_of_length(max(rows, key=len), shape[1])] * shape[0]
        for name, latencies_ms in _latencies_ms(targets, batch).items():
            median = float(np.median(latencies_ms))
            low, high = median_interval(latencies_ms)
            timings[name].append(
                ShapeTiming(
                    rows=shape[0],
                    tokens=shape[1],
                    latency_ms=round(median, 3),
                    latency_ms_interval=(round(low, 3), round(high, 3)),
                    tokens_per_s=round(1000 * shape[0] * shape[1] / median, 1),
                )
            )
    left_out = [f"{count} × {length}" for count, length in shapes if length > max_length]
    note = f"Shapes longer than the model's {max_length} tokens are left out: {', '.join(left_out)}."
    return {name: tuple(each) for name, each in timings.items()}, (note,) if left_out else ()


def cudnn_targets(models: Mapping[str, TorchModel]) -> dict[str, BenchmarkTarget]:
    """Return torch with attention in cuDNN, by the name of the same without, where a GPU's precision has it.

    Serving meets ever new shapes, and cuDNN builds a plan for each, so that torch runs without it elsewhere; on a fixed
    shape it may be torch's fastest.
    """
    return {
        name: BenchmarkTarget.of_torch(with_cudnn(model), has_batch_choice=True)
        for name, model in models.items()
        if may_use_cudnn(model.setup)
    }


def may_use_cudnn(setup: TorchSetup) -> bool:
    """Tell whether cuDNN's attention is another way to run a setup: on a GPU, in fp16 or bf16, not compiled."""
    is_other = not (setup.cudnn_attention or setup.compiled)
    return setup.device == "cuda" and setup.precision_class == "half" and is_other


def with_cudnn(model: TorchModel) -> TorchModel:
    """Return the model with attention in cuDNN."""
    return model.with_setup(model.setup.model_copy(update={"cudnn_attention": True}))


def time_fastest(
    targets: Mapping[str, BenchmarkTarget],
    others: Mapping[str, BenchmarkTarget],
    rows: Sequence[EncodedInput],
    shapes: Sequence[tuple[int, int]],
    *,
    max_length: int,
    progress: Callable[[str], object] = lambda _: None,
) -> tuple[dict[str, tuple[ShapeTiming, ...]], tuple[str, ...]]:
    """Return the timings of `time_shapes`, those of a target in `others`, too, being the faster of its two ways."""
    ways = {**targets, **{_other(name): target for name, target in others.items()}}
    timings, notes = time_shapes(ways, rows, shapes, max_length=max_length, progress=progress)
    for name in others:
        pairs = zip(timings[name], timings.pop(_other(name)), strict=True)
        timings[name] = tuple(min(pair, key=lambda timing: timing.latency_ms) for pair in pairs)
    return timings, (*notes, *([CUDNN_NOTE.format(names=", ".join(others))] if others else []))


def _other(name: str) -> str:
    return f"{name}, {CUDNN}"


def _latencies_ms(targets: Mapping[str, BenchmarkTarget], batch: list[EncodedInput]) -> dict[str, list[float]]:
    """Run a batch on each target in turn, until each has run it for `SECONDS`."""
    latencies_ms: dict[str, list[float]] = {name: [] for name in targets}
    for target in targets.values():
        target.run_batch(batch)
    while unfinished := [name for name, found in latencies_ms.items() if not _is_enough(found)]:
        for name in unfinished:
            started = time.perf_counter()
            targets[name].run_batch(batch)
            latencies_ms[name].append((time.perf_counter() - started) * 1000)
    return latencies_ms


def _is_enough(latencies_ms: Sequence[float]) -> bool:
    runs, total_s = len(latencies_ms), sum(latencies_ms) / 1000
    return total_s > MAX_SECONDS or (runs >= MIN_RUNS and (runs >= MAX_RUNS or total_s > SECONDS))


def _of_length(row: EncodedInput, length: int) -> EncodedInput:
    def cut(values: Any) -> list[int]:
        repeated = list(values) * -(-length // len(values))
        return repeated[:length]

    return replace(row, ids=cut(row.ids), type_ids=cut(row.type_ids))
