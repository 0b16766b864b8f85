"""The speed step of the GPU check: its workloads, its floors, its comparison of outputs, and torch.compile last."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from kit.gpu_check import speed_report, unmeasured, workload

from tuneport.errors import EngineError
from tuneport.runtime.loading import open_runner
from tuneport.schema.artifact import Manifest
from tuneport.stages.benchmarks.baselines import open_baseline
from tuneport.stages.benchmarks.config import BenchConfig
from tuneport.stages.benchmarks.gpu_check.config import COMPILED, EAGER, FLOORS, MEAN_TOKENS, MIXED, SCALES, Floor
from tuneport.stages.benchmarks.gpu_check.outputs import compare
from tuneport.stages.benchmarks.gpu_check.rows import Rows, mixed_lengths
from tuneport.stages.benchmarks.gpu_check.speed import open_meter
from tuneport.stages.benchmarks.gpu_check.speed_report import check_floors
from tuneport.stages.export.reference import TorchModel


def test_a_floor_is_met_by_the_fastest_variant_and_not_without_a_measurement() -> None:
    floors = tuple(Floor(workload="a", against=against, factor=1.4) for against in (EAGER, COMPILED))
    measured = [workload("a", {"fp32": 1.0, "fp16": 1.5}, {"fp32": 0.9, "fp16": 1.39})]
    results = check_floors(measured, (*floors, Floor(workload="b", against=EAGER, factor=1.0)))
    assert [(each.variant, each.factor, each.is_met) for each in results] == [
        ("fp16", 1.5, True), ("fp16", 1.39, False), ("", None, False),
    ]  # fmt: skip


def test_there_is_a_floor_for_every_workload_of_a_gpu() -> None:
    names = {f"{rows} x {tokens}" for rows, tokens in SCALES["cuda"].shapes} | {MIXED}
    assert {floor.workload for floor in FLOORS if floor.against == COMPILED} == names
    floors = {floor.workload: floor.factor for floor in FLOORS if floor.against == EAGER}
    assert floors == {"1 x 16": 3.0, "1 x 128": 3.0, "8 x 128": 1.4, MIXED: 2.0}


def test_mixed_lengths_are_mixed_and_have_their_mean() -> None:
    lengths = mixed_lengths(2000, 128)
    assert np.mean(lengths) == pytest.approx(MEAN_TOKENS, abs=1.5)
    assert min(lengths) < 20 < 100 < max(lengths) <= 128
    assert lengths == mixed_lengths(2000, 128)
    assert max(mixed_lengths(50, 40)) <= 40


def test_a_variant_whose_outputs_differ_is_named_wrong(
    tiny_artifact: Path, tiny_checkpoint: Path, manifest: Manifest
) -> None:
    variant = manifest.variant("fp32")
    runner = open_runner(tiny_artifact, manifest, variant)
    reference = open_baseline(manifest, BenchConfig(artifact=tiny_artifact, checkpoint=tiny_checkpoint)).load_reference(
        "cpu"
    )
    rows = Rows.of_golden(runner, tiny_artifact)
    batches = [[rows.make(length, i) for i in range(4)] for length in (5, 16)]
    assert [len(row) for row in batches[1]] == [16] * 4
    differences, wrong = compare(reference, {"fp32": runner}, [variant], batches)
    assert wrong == {}
    assert 0 < (differences["fp32"] or 0) < 1e-3
    run_batch = runner.run_batch
    runner.run_batch = lambda given: [{"logits": row["logits"][::-1]} for row in run_batch(given)]  # type: ignore[method-assign]
    differences, wrong = compare(reference, {"fp32": runner}, [variant], batches)
    assert "agreement" in wrong["fp32"]
    assert (differences["fp32"] or 0) > 0.5
    runner.run_batch = lambda given: [{"logits": row["logits"] * np.nan} for row in run_batch(given)]  # type: ignore[method-assign]
    differences, wrong = compare(reference, {"fp32": runner}, [variant], batches)
    assert differences == {"fp32": None}
    assert wrong == {"fp32": "some outputs are not finite"}


@pytest.mark.parametrize("compiler", ["works", "fails"])
def test_speeds_are_kept_as_they_come_with_torch_compile_last(
    tiny_artifact: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, compiler: str
) -> None:
    def fail(*_: object) -> None:
        raise EngineError("torch.compile fails (no C compiler)", "install one")

    monkeypatch.setitem(SCALES, "cpu", replace(SCALES["cpu"], compiles=True))
    if compiler == "works":
        monkeypatch.setattr(torch, "compile", lambda model, **_: model)
    else:
        monkeypatch.setattr(TorchModel, "compiled_for_shapes", fail)
        monkeypatch.setattr(TorchModel, "compile_on", fail)
    reports = list(open_meter(tiny_artifact, tiny_checkpoint, "cpu").measure())
    assert [len(each.workloads) for each in reports] == [0, 1, 2, 3, 3, 3, 3]
    assert set(reports[0].differences) == {"fp32", "int8"}  # outputs are compared before anything is timed
    assert all(set(each.factors) == {EAGER} for each in reports[3].workloads)
    assert all(set(each.factors[EAGER]) == {"fp32", "int8"} for each in reports[3].workloads)
    names = [each.workload for each in reports[3].workloads]
    if compiler == "works":
        assert [set(each.factors) for each in reports[-1].workloads] == [{EAGER, COMPILED}] * 3
        assert set(reports[-1].compile_s) == set(names)
    else:
        assert reports[-1].not_compiled == dict.fromkeys(names, "torch.compile fails (no C compiler)")
        assert reports[-1].workloads == reports[3].workloads


def test_a_floor_that_was_not_measured_is_not_missed_and_fails_the_check() -> None:
    assert speed_report(3.5, {}).unmet() == []
    speed = unmeasured(speed_report(3.5, {}))
    assert not speed.is_passed
    assert speed.unmet() == [
        "not measured: mixed lengths, the floor is 2 x torch eager",
        "not measured (torch.compile failed: no C compiler): 32 x 128, the floor is 1 x torch compiled",
        "not measured: mixed lengths, the floor is 1 x torch compiled",
    ]
    assert speed_report(2.5, {}).unmet() == [
        f"missed: 1 x {tokens}: 2.50 x, the floor is 3 x torch eager (fp16)" for tokens in (16, 128)
    ]
