"""The timings of step `speed`: a batch of one shape, and mixed lengths, torch and every variant in turn."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tuneport.runtime.batch import EncodedInput
from tuneport.runtime.runner import ModelRunner
from tuneport.schema.artifact import Variant
from tuneport.schema.torch_setup import TorchSetup
from tuneport.stages.export.benchmark import benchmark
from tuneport.stages.export.reference import TorchModel
from tuneport.stages.export.target import BenchmarkTarget

from .config import COMPILED, EAGER, MIXED, Scale
from .outputs import RunBatch
from .speed_report import WorkloadResult

CUDNN = "eager, attention in cuDNN"
"""Of fixed shapes, `eager` is the faster one with and without it."""
WARM_UPS, LEAST_RUNS = 3, 5
MIXED_ROUNDS = 2


def time_shape(
    name: str,
    batch: Sequence[EncodedInput],
    eager: TorchModel,
    runners: Mapping[str, ModelRunner],
    scale: Scale,
    compile_s: dict[str, float],
) -> WorkloadResult:
    """Return the median latency of a batch, of every target in turn."""
    targets: dict[str, RunBatch] = {EAGER: eager.run_batch, CUDNN: _with_cudnn(eager).run_batch}
    if scale.compiles:
        compiled = eager.compiled_for_shapes()
        started = time.perf_counter()
        for _ in range(WARM_UPS):  # reduce-overhead records its CUDA graph in the second run
            compiled.run_batch(batch)
        compile_s[name] = round(time.perf_counter() - started, 1)
        targets[COMPILED] = compiled.run_batch
    targets |= {variant: runner.run_batch for variant, runner in runners.items()}
    values = {target: _median_ms(run_batch, batch, scale.seconds) for target, run_batch in targets.items()}
    values[EAGER] = min(values[EAGER], values.pop(CUDNN))
    factors = {
        baseline: {variant: round(values[baseline] / values[variant], 3) for variant in runners}
        for baseline in (EAGER, COMPILED)
        if baseline in values
    }
    return WorkloadResult(workload=name, unit="ms", values=values, factors=factors)


def time_mixed(
    rows: Sequence[EncodedInput],
    eager: TorchModel,
    runners: Mapping[str, ModelRunner],
    variants: Sequence[Variant],
    scale: Scale,
    compile_s: dict[str, float],
) -> WorkloadResult:
    """Return the throughput on mixed lengths, sorted, of every target with its own best size of batches."""
    targets = {EAGER: BenchmarkTarget.of_torch(eager, has_batch_choice=True)}
    if scale.compiles:
        compiled = eager.with_setup(compiled_setup(eager))
        compiled.compile_on(rows)
        compile_s[MIXED] = compiled.compile_s or 0.0
        targets[COMPILED] = BenchmarkTarget.of_torch(compiled, has_batch_choice=True)
    for variant in variants:
        execution = variant.execution
        targets[variant.name] = BenchmarkTarget.of_runner(runners[variant.name], execution.device, execution.precision)
    results = benchmark(targets, rows, rounds=MIXED_ROUNDS, singles=1)
    values = {name: result.timing.texts_per_s for name, result in results.items()}
    factors = {
        baseline: {name: round(values[name] / values[baseline], 3) for name in runners}
        for baseline in (EAGER, COMPILED)
        if baseline in values
    }
    return WorkloadResult(workload=MIXED, unit="texts/s", values=values, factors=factors)


def _with_cudnn(eager: TorchModel) -> TorchModel:
    return eager.with_setup(eager.setup.model_copy(update={"cudnn_attention": True}))


def compiled_setup(eager: TorchModel) -> TorchSetup:
    """Return the setup of `eager` with torch.compile."""
    return eager.setup.model_copy(update={"compiled": True})


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
