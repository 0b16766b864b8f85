"""The torch baselines: which there are, which are fair, and against which a speed-up is measured."""

import time
from collections.abc import Callable, Sequence

import pytest
import torch
from kit.exports import Prepared

from tuneport.errors import EngineError
from tuneport.host import Host
from tuneport.runtime.batch import EncodedInput
from tuneport.runtime.scheduler import BatchLimits, candidate_limits
from tuneport.schema.torch_setup import REFERENCE, TorchSetup
from tuneport.stages.export.baselines import baseline_setups, choose_baseline, cuda_setups, honest_baselines
from tuneport.stages.export.benchmark import benchmark
from tuneport.stages.export.reference import TorchModel
from tuneport.stages.export.target import BenchmarkTarget

FP32, FP16 = TorchSetup(device="cuda"), TorchSetup(device="cuda", precision="fp16")
TF32, BF16 = TorchSetup(device="cuda", tf32=True), TorchSetup(device="cuda", precision="bf16")
COMPILED = FP16.model_copy(update={"compiled": True})


def test_a_gpu_has_baselines_in_every_precision_that_it_multiplies() -> None:
    assert cuda_setups((9, 0), is_compiled=False) == (FP32, TF32, FP16, BF16)
    assert cuda_setups((7, 5), is_compiled=False) == (FP32, FP16)
    names = [setup.name for setup in cuda_setups((8, 0), is_compiled=True)]
    assert names[:4] == ["torch fp32", "torch tf32", "torch fp16", "torch bf16"]
    assert names[4:] == ["torch tf32 compiled", "torch fp16 compiled"]
    assert [setup.name for setup in cuda_setups((7, 5), is_compiled=True)][2:] == [
        "torch fp32 compiled", "torch fp16 compiled",
    ]  # fmt: skip


@pytest.mark.parametrize("has_bf16", [False, True])
def test_a_processor_has_fp32_and_bf16_if_it_has_the_instructions(
    monkeypatch: pytest.MonkeyPatch, has_bf16: bool
) -> None:
    monkeypatch.setattr(Host, "has_bf16", property(lambda _: has_bf16))
    names = [setup.name for setup in baseline_setups("cpu")]
    assert names == ["torch fp32", "torch bf16"][: 1 + has_bf16]
    compiled = [setup.name for setup in baseline_setups("cpu", is_compiled=True)]
    assert compiled == [*names, *(f"{name} compiled" for name in names)]


SETUPS = {setup.name: setup for setup in (FP32, TF32, FP16, BF16, COMPILED)}
SPEEDS = {"torch fp32": 1.0, "torch tf32": 2.0, "torch fp16": 5.0, "torch bf16": 4.0, "torch fp16 compiled": 6.0}


@pytest.mark.parametrize(
    ("precision", "without", "baseline"),
    [
        ("fp32", (), "torch tf32"),
        ("fp16", (), "torch fp16 compiled"),
        ("bf16", ("torch fp16 compiled",), "torch fp16"),
        ("fp16", ("torch fp16 compiled", "torch fp16"), "torch bf16"),
        ("int8", (), "torch fp16 compiled"),
        ("int4", ("torch fp16 compiled", "torch fp16", "torch bf16"), "torch tf32"),
        ("fp16", ("torch fp16 compiled", "torch fp16", "torch bf16"), "torch tf32"),  # its class has none
    ],
)
def test_the_baseline_is_the_fastest_torch_of_the_class(
    precision: str, without: tuple[str, ...], baseline: str
) -> None:
    setups = {name: setup for name, setup in SETUPS.items() if name not in without}
    assert choose_baseline(precision, setups, SPEEDS) == baseline  # type: ignore[arg-type]


def per_row(milliseconds: float) -> Callable[[Sequence[EncodedInput]], None]:
    return lambda rows: time.sleep(milliseconds * len(rows) / 1000)


def test_every_timing_names_its_baseline() -> None:
    rows = [EncodedInput([1] * 8, [0] * 8, False)] * 6
    targets = {
        REFERENCE: BenchmarkTarget(per_row(8), TorchSetup()),
        "torch bf16": BenchmarkTarget(per_row(2), TorchSetup(precision="bf16"), "bf16"),
        "fp32": BenchmarkTarget(per_row(4)),
        "half": BenchmarkTarget(per_row(4), precision="bf16"),
        "int8": BenchmarkTarget(per_row(4), precision="int8"),
    }
    results = {name: result.timing for name, result in benchmark(targets, rows, rounds=1, singles=1).items()}
    assert {name: timing.baseline for name, timing in results.items()} == {
        REFERENCE: REFERENCE, "torch bf16": "torch bf16", "fp32": REFERENCE, "half": "torch bf16", "int8": "torch bf16",
    }  # fmt: skip
    assert results[REFERENCE].speed_up == results["torch bf16"].speed_up == 1.0
    assert results["fp32"].speed_up > 1 > results["half"].speed_up
    assert results["half"].speed_up == pytest.approx(
        results["half"].texts_per_s / results["torch bf16"].texts_per_s, rel=0.01
    )


def test_a_turn_of_a_gpu_lasts_as_long_as_it_needs() -> None:
    calls = []
    rows = [EncodedInput([1] * 8, [0] * 8, False)] * 4
    target = BenchmarkTarget(lambda batch: calls.append(time.sleep(0.001)), TorchSetup(), device="cuda")
    results = benchmark({REFERENCE: target}, rows, rounds=1, singles=1)
    seconds = results[REFERENCE].seconds
    assert seconds is not None
    assert len(calls) >= 3 * len(seconds.values)


def test_torch_has_the_choice_of_batches_of_its_device(prepared: Prepared) -> None:
    model = prepared.reference.model
    assert BenchmarkTarget.of_torch(model, has_batch_choice=True).limits == candidate_limits(BatchLimits(), "cpu")
    on_cuda = TorchModel.__new__(TorchModel)
    on_cuda.setup = FP16
    target = BenchmarkTarget.of_torch(on_cuda, has_batch_choice=True)
    assert target.limits == candidate_limits(BatchLimits(), "cuda")
    assert target.device == "cuda"
    assert BenchmarkTarget.of_torch(on_cuda, has_batch_choice=False).limits == (BatchLimits(),)


def test_a_baseline_that_predicts_otherwise_is_named_and_not_timed(
    prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    setups = (TorchSetup(), TorchSetup(precision="bf16"), TorchSetup(precision="fp16"))
    gate, family, reference = prepared.reference.gate, prepared.source.family, prepared.reference.model
    with_setup = TorchModel.with_setup

    def break_bf16(self: TorchModel, setup: TorchSetup) -> TorchModel:
        other = with_setup(self, setup)
        if setup.precision == "bf16":
            with torch.no_grad():
                other.model.classifier.bias[0] += 50
        return other

    monkeypatch.setattr(TorchModel, "with_setup", break_bf16)
    baselines = honest_baselines(gate, family, reference, setups)
    assert set(baselines.models) == {REFERENCE, "torch fp16"}
    assert set(baselines.measurements) == {"torch fp16"}
    assert baselines.refused.keys() == {"torch bf16"}
    assert baselines.refused["torch bf16"].startswith("it differs from torch fp32: agreement")


def test_a_compiler_that_fails_costs_its_baseline_alone(prepared: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("no C++ compiler\nand many more lines")

    monkeypatch.setattr(torch, "compile", lambda *_, **__: fail)
    setups = (TorchSetup(), TorchSetup(compiled=True))
    reference = prepared.reference
    baselines = honest_baselines(reference.gate, prepared.source.family, reference.model, setups)
    assert list(baselines.models) == [REFERENCE]
    assert baselines.refused == {"torch fp32 compiled": "torch.compile fails (no C++ compiler)"}
    with pytest.raises(EngineError, match=r"no C\+\+ compiler"):
        reference.model.with_setup(setups[1]).compile_on(reference.gate.rows)


@pytest.mark.slow
def test_torch_compile_is_a_baseline_whose_compile_time_is_known(prepared: Prepared) -> None:
    reference = prepared.reference
    setups = (TorchSetup(), TorchSetup(compiled=True))
    baselines = honest_baselines(reference.gate, prepared.source.family, reference.model, setups)
    assert baselines.refused == {}
    assert baselines.models[REFERENCE].compile_s is None
    assert (baselines.models["torch fp32 compiled"].compile_s or 0) > 0
    assert baselines.measurements["torch fp32 compiled"].parity.max_abs_diff < 1e-3
