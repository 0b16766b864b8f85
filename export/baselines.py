"""The torch baselines of a device, and against which of them a speed-up is measured."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from tuneport.errors import EngineError, GateError
from tuneport.gpu import AMPERE, capability_pair
from tuneport.host import Host
from tuneport.schema.artifact import Precision
from tuneport.schema.torch_setup import REFERENCE, PrecisionClass, TorchDevice, TorchPrecision, TorchSetup

from .families import ExportFamily
from .gate import Gate, Measurement, Thresholds, check
from .reference import TorchModel
from .torch_device import TorchOutOfMemory

MIN_AGREEMENT, MAX_DROP = 0.99, 0.01
"""What a baseline of lower precision must keep of torch fp32's predictions and of its metric."""
CLASSES: dict[Precision, PrecisionClass] = {"fp32": "fp32", "fp16": "half", "bf16": "half"}
"""Classes of precisions; variants of the others are compared with the fastest baseline of all."""


@dataclass(frozen=True)
class Baselines:
    """The torch models that are compared and timed, the reference first."""

    models: Mapping[str, TorchModel]
    measurements: Mapping[str, Measurement]
    """Of all but the reference."""
    refused: Mapping[str, str]
    """Why others are not timed: they predict otherwise than the reference, or do not run."""


def reference_setup(device: TorchDevice) -> TorchSetup:
    """Return how the gate's reference runs on a device: fp32 without TF32."""
    return TorchSetup(device=device)


def baseline_setups(device: TorchDevice, *, is_compiled: bool = False) -> tuple[TorchSetup, ...]:
    """Return every way of running torch on this host's device that is a fair baseline, the reference first.

    With `is_compiled` also those with `torch.compile`, of the fastest precision in each class.
    """
    if device == "cuda":
        return cuda_setups(torch.cuda.get_device_capability(), is_compiled=is_compiled)
    precisions: list[TorchPrecision] = ["fp32", "bf16"] if Host.here().has_bf16 else ["fp32"]
    eager = tuple(TorchSetup(precision=precision) for precision in precisions)
    return (*eager, *(_compiled(setup) for setup in eager if is_compiled))


def cuda_setups(capability: tuple[int, int], *, is_compiled: bool) -> tuple[TorchSetup, ...]:
    """Return the setups for a GPU of a compute capability."""
    fp32, fp16 = reference_setup("cuda"), TorchSetup(device="cuda", precision="fp16")
    if capability < capability_pair(AMPERE):
        return (fp32, fp16, *(_compiled(setup) for setup in (fp32, fp16) if is_compiled))
    tf32, bf16 = TorchSetup(device="cuda", tf32=True), TorchSetup(device="cuda", precision="bf16")
    return (fp32, tf32, fp16, bf16, *(_compiled(setup) for setup in (tf32, fp16) if is_compiled))


def honest_baselines(
    gate: Gate, family: ExportFamily, reference: TorchModel, setups: tuple[TorchSetup, ...]
) -> Baselines:
    """Compile what is to be compiled, and compare every setup with the reference, the first of them."""
    models, measurements, refused = {REFERENCE: reference}, {}, {}
    min_agreement = MIN_AGREEMENT if family.needs_agreement else 0.0
    thresholds = Thresholds.close(min_agreement, MAX_DROP, is_unlabelled=gate.is_unlabelled)
    for setup in setups[1:]:
        if setup.compiled and not family.is_calibrated:
            refused[setup.name] = "torch.compile is timed with encoders only"
            continue
        try:
            models[setup.name], measurements[setup.name] = _compared(gate, reference, setup, thresholds)
        except TorchOutOfMemory as error:
            refused[setup.name] = error.reason
        except EngineError as error:
            refused[setup.name] = error.problem
        except GateError as error:
            refused[setup.name] = f"it differs from {REFERENCE}: {error.problem}"
    return Baselines(models, measurements, refused)


def _compared(
    gate: Gate, reference: TorchModel, setup: TorchSetup, thresholds: Thresholds
) -> tuple[TorchModel, Measurement]:
    model = reference.with_setup(setup)
    model.compile_on(gate.rows or gate.golden_rows)
    measurement = gate.measure_torch(model)
    check(measurement, thresholds)
    return model, measurement


def choose_baseline(precision: Precision, baselines: Mapping[str, TorchSetup], texts_per_s: Mapping[str, float]) -> str:
    """Return the name of the fastest baseline in the class of a precision, or of all where that class has none."""
    wanted = CLASSES.get(precision)
    same = [name for name, setup in baselines.items() if setup.precision_class == wanted]
    return max(same or baselines, key=texts_per_s.__getitem__)


def _compiled(setup: TorchSetup) -> TorchSetup:
    return setup.model_copy(update={"compiled": True})
