"""Decide how a variant runs on its device, in streams or as CUDA graphs, by timing the ways side by side."""

import functools
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from tuneport.errors import EngineError
from tuneport.host import usable_cores
from tuneport.runtime.batch import EncodedInput
from tuneport.runtime.runner import ModelRunner
from tuneport.schema.artifact import Execution

from .benchmark import ENOUGH_SINGLES, benchmark, choose_limits
from .build import Passed, VariantBuilder, as_engine_error
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

    All ways are closed before the next variant is opened. Generative models, which would take long, are not timed.
    """
    tokens = _search_batch_sizes(builder, passed, rows) if builder.requirements.device == "cpu" else {}
    return builder.steps.run(functools.partial(_choose, builder, passed, rows, tokens))


def _search_batch_sizes(builder: VariantBuilder, passed: Passed, rows: Sequence[EncodedInput]) -> dict[str, int]:
    """Return the best number of tokens in a batch for each way of a CPU, each searched alone and in a step of its own.

    OpenVINO keeps what it compiles for each shape, so that a search takes more memory than the model. A way that fails,
    or that answers the golden cases differently, is left out; raises EngineError if the plain one fails.
    """
    name, plain = passed.candidate.name, passed.candidate.execution
    if not builder.family.has_batch_choice or plain.single_row_batches:
        return {}
    tokens = {}
    for label, execution in [(name, plain), *alternatives(builder, passed)]:
        try:
            search = functools.partial(_best_tokens, builder, passed, label, execution, rows)
            tokens[label] = builder.steps.run(search)
        except EngineError as error:
            if label == name:
                raise
            builder.progress(f"{label} is left out: {error.problem}")
        release_memory()
    return tokens


def _best_tokens(
    builder: VariantBuilder, passed: Passed, label: str, execution: Execution, rows: Sequence[EncodedInput]
) -> int:
    runner = builder.open(execution)
    if label != passed.candidate.name:  # which has passed
        check_way(builder, passed, label, execution, runner, runner)
    with as_engine_error("it fails when it runs"):
        target = BenchmarkTarget.of_runner(runner, execution.device, execution.precision)
        return choose_limits(label, target, rows, builder.progress).tokens


def _choose(builder: VariantBuilder, passed: Passed, rows: Sequence[EncodedInput], tokens: Mapping[str, int]) -> Chosen:
    """Time the ways side by side; `tokens` are the batch sizes that are already chosen, of the ways that can run."""
    name, objective = passed.candidate.name, builder.requirements.objective
    opened = list(open_alternatives(builder, passed, proven=tokens))
    release_memory()  # of compiling them
    executions = {label: execution for label, execution, _ in opened}
    targets = {}
    for label, execution, runner in opened:
        target = BenchmarkTarget.of_runner(runner, execution.device, execution.precision)
        if label in tokens:
            target = target.with_limits(replace(runner.limits, tokens=tokens[label]))
        targets[label] = target
    best, cost = name, float(passed.candidate.execution.size_bytes)
    is_timed = builder.family.has_batch_choice and objective != "size"
    if is_timed or len(opened) > 1:
        results = _time_ways(builder, targets, rows)
        best = best_alternative(name, results, objective)
        best_tokens = results[best].max_batch_tokens
        cost = _cost(results[best], objective) if is_timed else cost
    else:
        best_tokens = choose_limits(name, targets[name], rows, builder.progress).tokens
    if executions[best].single_row_batches:
        return Chosen(executions[best], cost)
    return Chosen(executions[best].model_copy(update={"max_batch_tokens": best_tokens}), cost)


def _time_ways(
    builder: VariantBuilder, targets: Mapping[str, BenchmarkTarget], rows: Sequence[EncodedInput]
) -> dict[str, BenchmarkResult]:
    max_seconds = SHARE_OF_SECONDS * builder.requirements.max_seconds
    # Throughput needs no single rows, whose shapes OpenVINO would keep.
    singles = ENOUGH_SINGLES if builder.requirements.objective == "latency" else 1
    return benchmark(targets, rows, max_seconds=max_seconds, singles=singles, progress=builder.progress)


def _cost(result: BenchmarkResult, objective: Objective) -> float:
    """Return the median seconds of a row in batches or, for the objective latency, alone.

    They are those of the samples, because the figures are rounded.
    """
    assert result.seconds is not None  # it was measured here
    assert result.latencies_ms is not None
    return result.latencies_ms.median / 1000 if objective == "latency" else result.seconds.median


def open_alternatives(
    builder: VariantBuilder, passed: Passed, proven: Collection[str] = ()
) -> Iterator[tuple[str, Execution, ModelRunner]]:
    """Yield the ways in which a variant that passed can run, with a label each: the plain one under its own name first.

    `proven` are the labels of those that were checked before; if there are some, no others are opened.
    One that cannot be opened or fails here, or that answers the golden cases differently, is left out. A lost
    device ends the export.
    """
    name, plain = passed.candidate.name, passed.candidate.execution
    first = builder.open(plain)
    yield name, plain, first
    if not first.supports_streams:
        return
    for label, execution in alternatives(builder, passed):
        if proven and label not in proven:
            continue
        try:
            runner = builder.open(execution)
            if label not in proven:
                check_way(builder, passed, label, execution, runner, first)
        except EngineError as error:
            builder.progress(f"{label} is left out: {error.problem}")
            continue
        yield label, execution, runner


def check_way(
    builder: VariantBuilder, passed: Passed, label: str, execution: Execution, runner: ModelRunner, plain: ModelRunner
) -> None:
    """Raise EngineError if a way to run a variant fails, or answers differently from torch or the `plain` way."""
    found = builder.way_difference(label, runner, plain, execution)
    if found > passed.tolerance:
        problem = f"it differs by {found:.3g}, and {passed.tolerance:.3g} is allowed"
        raise EngineError(problem, "run it in the plain way")


def alternatives(builder: VariantBuilder, passed: Passed) -> Iterator[tuple[str, Execution]]:
    """Yield executions that may be faster than the plain one, with a label each, which begins with the variant."""
    name, plain = passed.candidate.name, passed.candidate.execution
    if plain.device == "cpu":
        cores = usable_cores()
        if builder.requirements.objective == "throughput" and cores > 1:
            yield f"{name}, a stream a core", plain.model_copy(update={"streams": cores})
        return
    yield f"{name}, {GPU_STREAMS} streams", plain.model_copy(update={"streams": GPU_STREAMS})
    # Longer padding must not move the tokens of a row, as it does where padding comes first.
    if plain.device == "cuda" and plain.layout == "padded" and builder.processing.padding_side == "right":
        shapes = {"graph_shapes": graph_shapes(builder.gate.rows, builder.processing.max_length)}
        yield f"{name}, CUDA graphs", plain.model_copy(update=shapes)
        both = plain.model_copy(update={**shapes, "streams": GPU_STREAMS})
        yield f"{name}, CUDA graphs and {GPU_STREAMS} streams", both


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
