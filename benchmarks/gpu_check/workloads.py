"""The timings of step `speed`: a batch of one shape, and mixed lengths, torch and every variant in turn."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from tuneport.runtime.batch import EncodedInput
from tuneport.runtime.runner import ModelRunner
from tuneport.schema.artifact import Variant
from tuneport.schema.torch_setup import TorchSetup
from tuneport.stages.export.benchmark import benchmark
from tuneport.stages.export.reference import TorchModel
from tuneport.stages.export.target import BenchmarkTarget

from ..shapes import CUDNN, with_cudnn
from .config import COMPILED, EAGER, MIXED
from .outputs import RunBatch
from .speed_report import WorkloadResult

WARM_UPS, LEAST_RUNS = 3, 5
MIXED_ROUNDS = 2


def time_shape(
    name: str, batch: Sequence[EncodedInput], eager: TorchModel, runners: Mapping[str, ModelRunner], seconds: float
) -> WorkloadResult:
    """Return the median latency of a batch, of every target in turn; torch runs with and without cuDNN's attention."""
    targets: dict[str, RunBatch] = {EAGER: eager.run_batch, CUDNN: with_cudnn(eager).run_batch}
    targets |= {variant: runner.run_batch for variant, runner in runners.items()}
    values = {target: _median_ms(run_batch, batch, seconds) for target, run_batch in targets.items()}
    values[EAGER] = min(values[EAGER], values.pop(CUDNN))
    return shape_result(name, values)


def compile_shape(
    result: WorkloadResult, batch: Sequence[EncodedInput], eager: TorchModel, seconds: float
) -> tuple[WorkloadResult, float]:
    """Return a result of `time_shape` with torch.compile, and the seconds of compiling.

    Raises TuneportError if it cannot be compiled.
    """
    compiled, started = eager.compiled_for_shapes(), time.perf_counter()
    for _ in range(WARM_UPS):  # reduce-overhead records its CUDA graph in the second run
        compiled.run_batch(batch)
    compile_s = round(time.perf_counter() - started, 1)
    value = _median_ms(compiled.run_batch, batch, seconds)
    return shape_result(result.workload, {**result.values, COMPILED: value}), compile_s


def shape_result(name: str, values: Mapping[str, float]) -> WorkloadResult:
    """Return the result of a shape, torch's baselines first; `values` are milliseconds."""
    return _result(name, "ms", values, lambda baseline, variant: baseline / variant)


def time_mixed(
    rows: Sequence[EncodedInput],
    eager: TorchModel,
    runners: Mapping[str, ModelRunner],
    variants: Sequence[Variant],
    compiled: TorchModel | None = None,
    known: Mapping[str, int] | None = None,
) -> tuple[WorkloadResult, dict[str, int]]:
    """Return the throughput on mixed lengths, sorted, of every target with its own best size of batches, and the sizes.

    Those that are `known`, in padded tokens by target, are not searched again.
    """
    targets = {EAGER: BenchmarkTarget.of_torch(eager, has_batch_choice=True)}
    if compiled:
        targets[COMPILED] = BenchmarkTarget.of_torch(compiled, has_batch_choice=True)
    for variant in variants:
        execution = variant.execution
        targets[variant.name] = BenchmarkTarget.of_runner(runners[variant.name], execution.device, execution.precision)
    for name, tokens in (known or {}).items():
        targets[name] = targets[name].with_limits(replace(targets[name].limits[0], tokens=tokens))
    results = benchmark(targets, rows, rounds=MIXED_ROUNDS, singles=1)
    values = {name: result.timing.texts_per_s for name, result in results.items()}
    sizes = {name: result.max_batch_tokens for name, result in results.items()}
    return _result(MIXED, "texts/s", values, lambda baseline, variant: variant / baseline), sizes


def compiled_setup(eager: TorchModel) -> TorchSetup:
    """Return the setup of `eager` with torch.compile."""
    return eager.setup.model_copy(update={"compiled": True})


def _result(
    name: str, unit: str, values: Mapping[str, float], factor: Callable[[float, float], float]
) -> WorkloadResult:
    """Return a result with the factor of each variant over each baseline."""
    baselines = [each for each in (EAGER, COMPILED) if each in values]
    variants = [each for each in values if each not in baselines]
    return WorkloadResult(
        workload=name,
        unit=unit,
        values={each: values[each] for each in (*baselines, *variants)},
        factors={
            baseline: {variant: round(factor(values[baseline], values[variant]), 3) for variant in variants}
            for baseline in baselines
        },
    )


def _median_ms(
    run_batch: Callable[[Sequence[EncodedInput]], Any], batch: Sequence[EncodedInput], seconds: float
) -> float:
    for _ in range(WARM_UPS):
        run_batch(batch)
    times_ms: list[float] = []
    ends_at = time.perf_counter() + seconds
    while len(times_ms) < LEAST_RUNS or time.perf_counter() < ends_at:
        started = time.perf_counter()
        run_batch(batch)
        times_ms.append((time.perf_counter() - started) * 1000)
    return round(float(np.median(times_ms)), 4)
