"""Decide how a variant runs on its device, in streams or as CUDA graphs, by timing the ways side by side."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from tuneport.errors import EngineError
from tuneport.host import usable_cores
from tuneport.runtime.batch import EncodedInput
from tuneport.runtime.runner import ModelRunner
from tuneport.schema.artifact import Execution

from .benchmark import ENOUGH_SINGLES, benchmark, choose_limits
from .build import Passed, VariantBuilder
from .config import Objective
from .memory import release_memory
from .provider_options import graph_shapes
from .results import BenchmarkResult
from .select import gain
from .target import BenchmarkTarget

MIN_GAIN = 1.05
"""Factor by which an alternative must be better than the plain way: streams raise latency, CUDA graphs keep memory."""
GPU_STREAMS = 2
"""One copies while the other computes."""
SHARE_OF_SECONDS = 0.5
"""Of the seconds that a target is timed, for each way: its interval need not be narrow."""


class Chosen(NamedTuple):
    """The best way to run a variant."""

    execution: Execution
    cost: float
    """Seconds or, of what is not timed alone, bytes; the lower the better. See `_cost`."""


def choose_execution(builder: VariantBuilder, passed: Passed, rows: Sequence[EncodedInput]) -> Chosen:
    """Return the best way to run a variant that passed, with its best batch size.

    The others are closed before the next variant is opened. Generative models, which would take long, are not timed.
    """
    name, objective = passed.candidate.name, builder.requirements.objective
    opened = list(open_alternatives(builder, passed))
    release_memory()  # of compiling them
    executions = {label: execution for label, execution, _ in opened}
    targets = {
        label: BenchmarkTarget.of_runner(runner, execution.device, execution.precision)
        for label, execution, runner in opened
    }
    best, cost = name, float(passed.candidate.execution.size_bytes)
    is_timed = builder.family.has_batch_choice and objective != "size"
    if is_timed or len(opened) > 1:
        results = _time_ways(builder, targets, rows)
        best = best_alternative(name, results, objective)
        tokens = results[best].max_batch_tokens
        cost = _cost(results[best], objective) if is_timed else cost
    else:
        tokens = choose_limits(name, targets[name], rows, builder.progress).tokens
    if executions[best].single_row_batches:
        return Chosen(executions[best], cost)
    return Chosen(executions[best].model_copy(update={"max_batch_tokens": tokens}), cost)


def _time_ways(
    builder: VariantBuilder, targets: Mapping[str, BenchmarkTarget], rows: Sequence[EncodedInput]
) -> dict[str, BenchmarkResult]:
    max_seconds = SHARE_OF_SECONDS * builder.requirements.max_seconds
    return benchmark(targets, rows, max_seconds=max_seconds, singles=ENOUGH_SINGLES, progress=builder.progress)


def _cost(result: BenchmarkResult, objective: Objective) -> float:
    """Return the median seconds of a row in batches or, for the objective latency, alone.

    They are those of the samples, because the figures are rounded.
    """
    assert result.seconds is not None  # it was measured here
    assert result.latencies_ms is not None
    return result.latencies_ms.median / 1000 if objective == "latency" else result.seconds.median


def open_alternatives(builder: VariantBuilder, passed: Passed) -> Iterator[tuple[str, Execution, ModelRunner]]:
    """Yield the ways in which a variant that passed can run, with a label each: the plain one under its own name first.

    One that cannot be opened here, or that answers the golden cases differently, is left out.
    """
    name, plain = passed.candidate.name, passed.candidate.execution
    runner = builder.open(plain)
    yield name, plain, runner
    if not runner.supports_streams:
        return
    for label, execution in alternatives(builder, plain):
        try:
            runner = builder.open(execution)
            if builder.gate.golden_difference(runner) <= passed.tolerance:
                yield f"{name}, {label}", execution, runner
        except EngineError as error:
            builder.progress(f"{name}, {label}: {error.problem}")


def alternatives(builder: VariantBuilder, plain: Execution) -> Iterator[tuple[str, Execution]]:
    """Yield executions that may be faster than the plain one, with a label each."""
    if plain.device == "cpu":
        cores = usable_cores()
        if builder.requirements.objective == "throughput" and cores > 1:
            yield "a stream a core", plain.model_copy(update={"streams": cores})
        return
    yield f"{GPU_STREAMS} streams", plain.model_copy(update={"streams": GPU_STREAMS})
    # Longer padding must not move the tokens of a row, as it does where padding comes first.
    if plain.device == "cuda" and plain.layout == "padded" and builder.processing.padding_side == "right":
        shapes = {"graph_shapes": graph_shapes(builder.gate.rows, builder.processing.max_length)}
        yield "CUDA graphs", plain.model_copy(update=shapes)
        yield f"CUDA graphs and {GPU_STREAMS} streams", plain.model_copy(update={**shapes, "streams": GPU_STREAMS})


def best_alternative(name: str, results: Mapping[str, BenchmarkResult], objective: Objective) -> str:
    """Return the label of the best way to run a variant: the plain one unless another is better by `MIN_GAIN`.

    It must also be better beyond noise.
    """
    gains = {
        label: gain(objective, results[label], results[name]) for label in results if label.startswith(f"{name}, ")
    }
    best = max(gains, key=lambda label: sum(gains[label]), default=name)
    if best == name:
        return name
    low, high = gains[best]
    return best if low > 1 and (low + high) / 2 > MIN_GAIN else name
