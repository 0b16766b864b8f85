"""The one command that proves the project on a GPU: its steps, its floors, its report; all of it on a CPU (slow)."""

import contextlib
import importlib.util
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from kit.artifacts import reseal
from kit.encoders import tiny_encoder

from tuneport.errors import EngineError, TuneportError
from tuneport.gpu import Gpu
from tuneport.host import Host
from tuneport.runtime.loading import open_runner
from tuneport.schema.artifact import Manifest
from tuneport.schema.torch_setup import TorchSetup
from tuneport.stages.benchmarks.baselines import open_baseline
from tuneport.stages.benchmarks.config import BenchConfig
from tuneport.stages.benchmarks.endpoint.processes import start_server
from tuneport.stages.benchmarks.endpoint.targets import null_target
from tuneport.stages.benchmarks.gpu_check import main as gpu_check_main
from tuneport.stages.benchmarks.gpu_check.answers import compare_answers
from tuneport.stages.benchmarks.gpu_check.clients import Clients, check_answered, rate_per_s
from tuneport.stages.benchmarks.gpu_check.config import (
    COMPILED,
    EAGER,
    FLOORS,
    FLOORS_MINUTES,
    MEAN_TOKENS,
    MINUTES,
    MIXED,
    SCALES,
    Floor,
)
from tuneport.stages.benchmarks.gpu_check.endpoint_report import EndpointFigures
from tuneport.stages.benchmarks.gpu_check.gpu_tests import ROOT, count_cases, gpu_test_files, run_gpu_tests
from tuneport.stages.benchmarks.gpu_check.main import main, plan_steps, report_name
from tuneport.stages.benchmarks.gpu_check.models import LABELS, random_bert
from tuneport.stages.benchmarks.gpu_check.outputs import compare
from tuneport.stages.benchmarks.gpu_check.placement import count_nodes, fallbacks, placement, summarize
from tuneport.stages.benchmarks.gpu_check.plan import remove_earlier
from tuneport.stages.benchmarks.gpu_check.report import GpuCheckReport, write_gpu_report
from tuneport.stages.benchmarks.gpu_check.rows import Rows, mixed_lengths
from tuneport.stages.benchmarks.gpu_check.speed import open_meter
from tuneport.stages.benchmarks.gpu_check.speed_report import SpeedReport, WorkloadResult, check_floors
from tuneport.stages.benchmarks.gpu_check.steps import Step, StepResult, run_steps, write_result
from tuneport.stages.benchmarks.gpu_check.variants import (
    ABSENT,
    check_variants,
    expected_variants,
    impossible_variants,
)
from tuneport.stages.benchmarks.gpu_check.variants import main as variants_main
from tuneport.stages.export import applicable
from tuneport.stages.export.reference import TorchModel


def python(name: str, code: str, **fields: Any) -> Step:
    return Step(name, ("-c", code), **{"limit_s": 20.0, **fields})


def test_a_failed_step_hides_no_other_one(tmp_path: Path) -> None:
    result = tmp_path / "measured.json"
    steps = (
        python("fails", "import sys; print('why'); sys.exit(3)"),
        python("needs it", "pass", needs=("fails",)),
        python("measures", f"open({str(result)!r}, 'w').write('{{\"ms\": 4}}')", result=result),
        python("hangs", "import time; time.sleep(60)", limit_s=0.5),
        python("passes", "pass"),
        python("raises", f"raise ValueError({str(tmp_path)!r})"),
    )
    lines: list[str] = []
    results = {each.name: each for each in run_steps(steps, tmp_path, limit_s=100, progress=lines.append)}
    assert {name: each.status for name, each in results.items()} == {
        "fails": "failed", "needs it": "not run", "measures": "passed", "hangs": "timed out", "passes": "passed",
        "raises": "failed",
    }  # fmt: skip
    assert (results["fails"].exit_code, results["fails"].detail) == (3, "why")
    assert (results["needs it"].exit_code, results["needs it"].detail) == (None, "it needs fails")
    assert results["measures"].result == {"ms": 4}
    assert results["hangs"].exit_code is None
    assert 0.4 < results["hangs"].seconds < 20
    assert results["raises"].detail.endswith("ValueError: WORK")  # no folder of this machine
    assert "fails: failed" in lines[1]


def test_results_are_kept_after_each_step(tmp_path: Path) -> None:
    kept: list[dict[str, str]] = []
    steps = (python("first", "pass"), python("second", "import sys; sys.exit(1)"), python("third", "pass"))
    run_steps(
        steps, tmp_path, limit_s=100, keep=lambda results: kept.append({each.name: each.status for each in results})
    )
    assert kept == [
        {"first": "passed", "second": "not run", "third": "not run"},
        {"first": "passed", "second": "failed", "third": "not run"},
        {"first": "passed", "second": "failed", "third": "passed"},
    ]


def test_a_broken_result_is_none_and_the_next_steps_run(tmp_path: Path) -> None:
    for text in ('{"ms": ', "[1]", "", "\xff"):
        result = tmp_path / "broken.json"
        code = f"open({str(result)!r}, 'w', encoding='latin-1').write({text!r})"
        broken, after = run_steps(
            (python("broken", code, result=result), python("after", "pass")), tmp_path, limit_s=60
        )
        assert (broken.status, broken.result, after.status) == ("passed", None, "passed")


def test_a_result_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "result.json"
    write_result(str(file), "{}")

    def fail(path: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(OSError, match="No space"):
        write_result(file, '{"ms": 4}')
    assert file.read_text() == "{}"


def test_what_an_earlier_check_left_is_in_no_report(tmp_path: Path) -> None:
    steps = plan_steps("cuda", "minilm-l6", None, tmp_path)
    report = tmp_path / "bench" / "report.json"
    made = {step.makes / marker for step in steps if step.makes for marker in ("report.json", "run.json")}
    assert {tmp_path / each / "report.json" for each in ("bench", "endpoint", "generation", "training")} <= made
    assert tmp_path / "run" / "run.json" in made
    results = [step.result for step in steps if step.result]
    for file in (*made, *results):
        file.parent.mkdir(exist_ok=True)
        file.write_text("{}")
    remove_earlier(steps)
    assert not any(file.exists() for file in (*made, *results))
    (tmp_path / "bench").mkdir()  # a folder without a marker may be the user's
    (tmp_path / "bench" / "notes.txt").touch()
    remove_earlier(steps)
    assert (tmp_path / "bench" / "notes.txt").exists()
    assert not report.exists()


def test_a_check_that_is_ended_keeps_what_the_running_step_wrote_and_ends_it(tmp_path: Path) -> None:
    """The step stops what it started when it is asked to, and its own process group is ended in any case."""
    child = "import os, time; open('pid', 'w').write(str(os.getpid())); time.sleep(60)"
    measures = f"""
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, lambda *_: (open("asked", "w").close(), sys.exit(1)))
subprocess.Popen([sys.executable, "-c", {child!r}])
while not (os.path.exists("pid") and open("pid").read()): time.sleep(0.01)
open("measured.json", "w").write('{{"ms": 4}}')
open("ready", "w").close()
time.sleep(60)
"""
    script = f"""
import json, signal, sys
from pathlib import Path
from tuneport.stages.benchmarks.gpu_check.steps import Step, run_steps
signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
steps = (Step("measures", ("-c", {measures!r}), 50, result=Path("measured.json")), Step("late", ("-c", "pass"), 50))
keep = lambda results: Path("kept.json").write_text(json.dumps([each.model_dump() for each in results]))
run_steps(steps, Path(), limit_s=50, keep=keep)
print("over")
"""
    command = [sys.executable, "-P", "-c", script]
    check = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    ends_at = time.monotonic() + 40
    while not (tmp_path / "ready").exists() and time.monotonic() < ends_at:
        time.sleep(0.02)
    check.terminate()
    output, _ = check.communicate(timeout=30)
    assert (check.returncode, output) == (0, "over\n")
    measured, late = json.loads((tmp_path / "kept.json").read_text())
    assert (measured["status"], measured["exit_code"], measured["result"]) == ("ended", None, {"ms": 4})
    assert (late["status"], late["detail"]) == ("not run", "the check ended before it")
    assert (tmp_path / "asked").exists()
    pid, ends_at = (tmp_path / "pid").read_text(), time.monotonic() + 10
    while is_running(pid) and time.monotonic() < ends_at:
        time.sleep(0.01)
    assert not is_running(pid)


def test_no_step_starts_or_goes_on_after_the_time_of_all(tmp_path: Path) -> None:
    started = time.monotonic()
    steps = (python("long", "import time; time.sleep(60)", limit_s=60), python("late", "pass"))
    long, late = run_steps(steps, tmp_path, limit_s=2.5)
    assert time.monotonic() - started < 30
    assert (long.status, late.status) == ("timed out", "not run")
    assert late.detail == "the check's 2.5 s are over"


def test_the_processes_that_a_step_leaves_are_ended(tmp_path: Path) -> None:
    child = "import os, time; open('pid', 'w').write(str(os.getpid())); time.sleep(60)"
    code = f"""
import os, subprocess, sys, time
os.chdir({str(tmp_path)!r})
subprocess.Popen([sys.executable, "-c", {child!r}])
while not (os.path.exists("pid") and open("pid").read()): time.sleep(0.01)
"""
    (result,) = run_steps([python("leaves one", code)], tmp_path, limit_s=30)
    assert result.status == "passed"
    pid, ends_at = (tmp_path / "pid").read_text(), time.monotonic() + 10
    while is_running(pid) and time.monotonic() < ends_at:
        time.sleep(0.01)
    assert not is_running(pid)


def is_running(pid: str) -> bool:
    try:
        return (Path("/proc") / pid / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_every_step_comes_after_its_needs_and_names_a_module_that_exists(tmp_path: Path) -> None:
    for data in (None, "somewhere"):
        steps = plan_steps("cuda", "minilm-l6", data, tmp_path)
        seen: set[str] = set()
        for step in steps:
            assert set(step.needs) <= seen
            seen.add(step.name)
            module = step.command[2]
            assert module == "tuneport" or importlib.util.find_spec(module)
        assert ("data" in seen) == (data is None)
        assert {"finetune", "answers", "endpoint", "gpu-tests", "training", "bench", "bench-endpoint"} <= seen
        for name in ("tuned", "random-bert", "all-variants"):
            assert {f"{each}-{name}" for each in ("export", "variants", "verify", "placement", "speed")} <= seen


def options(step: Step) -> dict[str, str]:
    """Return the options of a command."""
    words = step.command
    return {name: value for name, value in itertools.pairwise(words) if name.startswith("--")}


@pytest.mark.parametrize("minutes", ["0", "-1", "nan", "inf", "ten"])
def test_a_time_without_end_or_without_length_is_refused(minutes: str, tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--minutes", minutes, "--out", str(tmp_path / "out")])
    assert caught.value.code == 2
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("data", ["data", None])
def test_without_the_device_nothing_else_is_run(tmp_path: Path, data: str | None) -> None:
    steps = {step.name: step for step in plan_steps("cuda", "minilm-l6", data, tmp_path)}
    for step in steps.values():
        while step.needs:
            step = steps[step.needs[0]]
        assert step.name == "environment"


def test_the_floors_depend_on_short_exports_that_come_first(tmp_path: Path) -> None:
    steps = {step.name: step for step in plan_steps("cuda", "minilm-l6", "data", tmp_path)}
    order = list(steps)
    core = [f"{each}-tuned" for each in ("export", "variants", "verify", "speed", "placement")]
    assert order[:9] == ["environment", "finetune", *core, "answers", "endpoint"]
    assert {need for name in order[3:9] for need in steps[name].needs} == {"export-tuned"}
    assert order.index("speed-random-bert") < order.index("gpu-tests") < order.index("export-all-variants")
    for name in ("tuned", "random-bert"):
        found = options(steps[f"export-{name}"])
        assert found["--variants"] == "fused,fp16,fp16-packed"
        assert float(found["--max-seconds"]) <= 0.5
        assert float(found["--mixed-precision-minutes"]) == 0
        assert int(found["--max-gate-rows"]) <= 100


def test_floors_leaves_out_the_steps_on_which_no_floor_depends(tmp_path: Path) -> None:
    steps = plan_steps("cuda", "minilm-l6", None, tmp_path, is_floors_only=True)
    tuned, random = (
        [f"{each}-{name}" for each in ("export", "variants", "verify", "speed", "placement")]
        for name in ("tuned", "random-bert")
    )
    assert [step.name for step in steps] == [
        "environment", "data", "finetune", *tuned, "answers", "endpoint", "random-bert", *random,
    ]  # fmt: skip
    assert steps == plan_steps("cuda", "minilm-l6", None, tmp_path)[: len(steps)]


@pytest.mark.parametrize(
    ("is_floors_only", "minutes", "all_minutes"), [(True, FLOORS_MINUTES, 23), (False, MINUTES, 56)]
)
def test_a_step_that_hangs_takes_a_quarter_of_the_default_time_at_most(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_floors_only: bool, minutes: float, all_minutes: float
) -> None:
    """The limits add up to more than that time, with TensorRT, too; docs/gpu.md says to how much."""
    monkeypatch.setattr(applicable, "has_tensorrt", lambda: True)
    limits = [step.limit_s for step in plan_steps("cuda", "m", None, tmp_path, is_floors_only=is_floors_only)]
    assert max(limits) <= minutes * 60 / 4
    assert minutes < all_minutes
    assert all_minutes - 1 < sum(limits) / 60 <= all_minutes
    assert f"{all_minutes} minutes" in " ".join((ROOT / "docs" / "gpu.md").read_text(encoding="utf-8").split())


@pytest.mark.parametrize(
    ("arguments", "minutes"), [([], 30.0), (["--floors"], 10.0), (["--floors", "--minutes", "4"], 4.0)]
)
def test_floors_has_a_shorter_time_and_the_report_says_that_others_were_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], minutes: float
) -> None:
    monkeypatch.setattr(gpu_check_main, "run_steps", lambda *_, limit_s, **__: limits.append(limit_s) or ())
    limits: list[float] = []
    with pytest.raises(SystemExit):
        main(["--device", "cpu", "--model", "m", "--data", "d", "--out", str(tmp_path / "out"), *arguments])
    assert limits == [60 * minutes]
    report = GpuCheckReport.model_validate_json((tmp_path / "out" / "report.json").read_text())
    assert (report.minutes, report.is_floors_only) == (minutes, bool(arguments))
    assert ("Only the steps of the floors." in report.text()) == bool(arguments)


def test_tensorrt_s_variants_are_exported_apart_where_it_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their engines take minutes to build, in which an export of all variants would be lost."""
    assert not any("tensorrt" in step.name for step in plan_steps("cuda", "minilm-l6", "data", tmp_path))
    monkeypatch.setattr(applicable, "has_tensorrt", lambda: True)
    steps = {step.name: step for step in plan_steps("cuda", "minilm-l6", "data", tmp_path)}
    assert options(steps["export-tensorrt"])["--variants"] == "tensorrt-fp16,tensorrt-int8"
    assert "tensorrt" not in options(steps["export-all-variants"])["--variants"]
    held = {name.removeprefix("speed-"): step.command[6] for name, step in steps.items() if name.startswith("speed-")}
    assert held == {  # the artifact of TensorRT's variants lacks those that may be the fastest
        "tuned": "floors", "random-bert": "floors", "all-variants": "floors", "tensorrt": "no-floors",
    }  # fmt: skip
    assert impossible_variants("cuda") == {}


def test_every_variant_for_cuda_is_exported_by_name_and_expected(tmp_path: Path) -> None:
    """Bf16 too, which is built unasked only where fp16 fails; TensorRT's are named as not run where it is missing."""
    names = expected_variants("cuda")
    assert names == ("fp32", "fused", "fp16", "fp16-packed", "fp16-packed-mha", "bf16")
    steps = {step.name: step for step in plan_steps("cuda", "minilm-l6", "data", tmp_path)}
    assert options(steps["export-all-variants"])["--variants"].split(",") == list(names)
    assert impossible_variants("cuda") == {
        "tensorrt-fp16": "tensorrt-fp16 needs TensorRT", "tensorrt-int8": "tensorrt-int8 needs TensorRT",
    }  # fmt: skip


def test_a_variant_that_was_rejected_or_is_absent_fails_the_check(
    tiny_artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(tiny_artifact, tmp_path / "artifact")
    reseal(folder, {"rejected": [{"name": "fp16", "reason": "agreement 80 %", "parity": None, "metric": None}]})
    assert check_variants(folder, ("fp32", "int8"))["missing"] == {}
    found = check_variants(folder, ("fp16", "fp16-packed"))
    assert found["missing"] == {"fp16": "agreement 80 %", "fp16-packed": ABSENT}
    result = tmp_path / "result.json"
    monkeypatch.setattr(sys, "argv", ["variants", str(folder), "cuda", "fp16,int8", str(result)])
    with pytest.raises(SystemExit, match=r"^fp16 was rejected: agreement 80 %$"):
        variants_main()
    assert json.loads(result.read_text())["missing"] == {"fp16": "agreement 80 %"}


def figures(**changes: Any) -> EndpointFigures:
    values = {
        "device": "cuda", "variant": "fp16", "workers": 8, "clients": 2, "connections": 256, "mean_tokens": 45.0,
        "client_ceiling_per_s": 30000.0, "requests_per_s": 8000.0, "latency_ms_p50": 30.0, "short_tokens": 16,
        "short_ms_p50": 1.25, "engine_ms_p50": 0.25,
    }  # fmt: skip
    return EndpointFigures.model_validate(values | changes)


def test_the_endpoint_has_floors_on_its_throughput_and_on_what_it_adds_to_the_engine() -> None:
    assert figures().missed() == {}
    assert figures(requests_per_s=7999.0).missed() == {"requests_per_s": "7999, the floor is at least 8,000"}
    assert figures(short_ms_p50=1.26).missed() == {"added_ms": "1.01, the floor is at most 1"}
    assert figures().unmet() == []
    unmeasured = figures(short_ms_p50=None, requests_per_s=7999.0)
    assert unmeasured.unmet() == [
        "missed: requests_per_s is 7999, the floor is at least 8,000", "not measured: added_ms",
    ]  # fmt: skip
    limited = figures(requests_per_s=5000.0, client_ceiling_per_s=6000.0).missed()["requests_per_s"]
    assert "the load generator itself reaches 6000" in limited
    assert figures(device="cpu", requests_per_s=1.0, short_ms_p50=None).unmet() == []


def test_several_load_generators_share_the_connections() -> None:
    clients = Clients(processes=2, connections=3, seconds=0.2)
    with start_server(null_target()) as server:
        loads = clients.load(null_target(), server.port, ["a", "b", "c"])
        check_answered(loads)
    assert [len(load.last_bodies) for load in loads] == [3, 3]
    slow = loads[0].model_copy(update={"answered_by_slice": (9, *[2] * 9), "seconds": 0.5})
    assert rate_per_s([slow, slow]) == 80.0
    with pytest.raises(TuneportError, match=r"statuses \{200: 5, 503: 1\}"):
        check_answered([slow.model_copy(update={"statuses": statuses}) for statuses in ({200: 5}, {503: 1})])


def workload(name: str, eager: dict[str, float], compiled: dict[str, float]) -> WorkloadResult:
    values = dict.fromkeys((EAGER, COMPILED, *eager), 1.0)
    return WorkloadResult(workload=name, unit="ms", values=values, factors={EAGER: eager, COMPILED: compiled})


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


def event(provider: str, operator: str, name: str) -> dict[str, Any]:
    return {"cat": "Node", "name": name, "args": {"provider": provider, "op_name": operator}}


def test_work_on_the_cpu_is_a_fallback_and_shapes_are_none() -> None:
    cuda, cpu = "CUDAExecutionProvider", "CPUExecutionProvider"
    events = [
        event(cuda, "MatMul", "a"), event(cuda, "MatMul", "b"), event(cuda, "MatMul", "b"), event(cpu, "Shape", "c"),
        {"cat": "Session", "name": "model_run"}, event(cpu, "Gather", "d"),
    ]  # fmt: skip
    fp32 = count_nodes(events)
    assert fp32 == {cuda: {"MatMul": 2}, cpu: {"Shape": 1, "Gather": 1}}
    packed = count_nodes([event(cpu, "PackedMultiHeadAttention", "e"), event(cpu, "SkipLayerNormalization", "f")])
    copied = count_nodes([*events, event(cuda, "MemcpyToHost", "m"), event(cuda, "MemcpyFromHost", "n")])
    assert summarize({"fp32": copied}) == {"fp32": {"nodes": 6, "on_cpu": 2, "copies": 2}}
    assert fallbacks({"fp32": copied}) == {}  # reported, and no failure
    assert fallbacks({"fp32": fp32, "packed": packed, "silent": {}}) == {
        "packed": ["PackedMultiHeadAttention", "SkipLayerNormalization"], "silent": ["no profile was written"],
    }  # fmt: skip


def test_onnxruntime_s_profile_has_the_provider_of_every_node(tiny_artifact: Path) -> None:
    found = placement(tiny_artifact, "cpu")
    assert found.keys() == {"fp32", "int8"}
    assert found["fp32"].keys() == {"CPUExecutionProvider"}
    assert any("MatMul" in operator or "Gemm" in operator for operator in found["fp32"]["CPUExecutionProvider"])
    assert fallbacks(found).keys() == {"fp32", "int8"}  # which is why the step asks on a GPU alone


def test_a_random_bert_is_sure_of_its_labels(tiny_checkpoint: Path, tiny_data: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    random_bert(tiny_checkpoint, tiny_data, tmp_path / "out", layers=2, hidden_size=64)
    rows = [json.loads(line) for line in (tmp_path / "out" / "data" / "validation.jsonl").open()]
    assert len(rows) > 30
    assert {row["label"] for row in rows} == set(LABELS)


def test_skipped_tests_are_counted_with_their_reasons() -> None:
    outcomes = [("a", "passed"), ("b", "skipped"), ("c", "failed"), ("d", "passed"), ("d", "failed")]
    cases = [{"test": test, "outcome": outcome, "reason": "no GPU" * (test == "b")} for test, outcome in outcomes]
    assert count_cases(cases) == {"passed": 1, "failed": ["c", "d"], "skipped": 1, "reasons": ["no GPU"]}


def test_the_folder_of_a_report_is_named_after_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = Gpu(name="NVIDIA H100 80GB HBM3 MIG 1g.10gb", compute_capability="9.0", memory_gib=10)
    host = Host(cpu="a", cores=2, instructions=(), memory_gib=8, system="Linux x86_64", gpus=(gpu,))
    monkeypatch.setattr(gpu_check_main.Host, "here", lambda: host)
    assert report_name("cuda") == "nvidia-h100-80gb-hbm3-mig-1g-10gb"
    assert report_name("cpu") == "cpu"


def speed_report(factor: float, wrong: dict[str, str]) -> SpeedReport:
    workloads = tuple(
        workload(name, {"fp16": factor}, {"fp16": factor})
        for name in ("1 x 16", "1 x 128", "8 x 128", "32 x 128", MIXED)
    )
    fp16 = TorchSetup(device="cuda", precision="fp16")
    return SpeedReport(
        name="x", device="cuda", baselines={EAGER: fp16, COMPILED: fp16.model_copy(update={"compiled": True})},
        compile_s={"1 x 16": 12.5}, not_compiled={}, mean_tokens=45.0, default_variant="fp16", workloads=workloads,
        differences={"fp16": 0.01}, wrong=wrong, floors=check_floors(workloads),
    )  # fmt: skip


def unmeasured(speed: SpeedReport) -> SpeedReport:
    """Return a report without the mixed lengths, and one in which torch.compile failed on a shape."""
    *shapes, last, _ = speed.workloads
    workloads = (*shapes, last.model_copy(update={"factors": {EAGER: last.factors[EAGER]}}))
    changes = {"workloads": workloads, "floors": check_floors(workloads), "not_compiled": {"32 x 128": "no C compiler"}}
    return speed.model_copy(update=changes)


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


def test_the_report_says_what_was_missed(tmp_path: Path) -> None:
    speed = speed_report(2.5, {"fp32": "agreement 80.0%"})
    assert not speed.is_passed
    speed = unmeasured(speed)
    assert not speed_report(2.5, {}).is_passed  # 3 x at batch 1
    assert speed_report(3.5, {}).is_passed
    common: dict[str, Any] = {"seconds": 1.0, "limit_s": 9.0}
    measured = speed.model_dump(mode="json")
    slow = figures(requests_per_s=5000.0, client_ceiling_per_s=6000.0, short_ms_p50=None).model_dump(mode="json")
    not_run = {"tensorrt-fp16": "tensorrt-fp16 needs TensorRT"}
    variants = {"passed": ["fp32"], "missing": {"bf16": "agreement 80 %"}, "not_run": not_run}
    nodes = {"fp16": {"nodes": 120, "on_cpu": 3, "copies": 2}}
    steps = (
        StepResult(name="environment", status="passed", exit_code=0, **common),
        StepResult(name="speed-tuned", status="failed", exit_code=1, result=measured, **common),
        StepResult(name="variants-tuned", status="failed", exit_code=1, result=variants, **common),
        StepResult(name="placement-tuned", status="passed", exit_code=0, result={"summary": nodes}, **common),
        StepResult(name="endpoint", status="failed", exit_code=1, result=slow, **common),
    )
    host = Host(
        cpu="a", cores=2, instructions=(), memory_gib=8, system="Linux x86_64", driver="590.1", cuda="13.1",
        gpus=(Gpu(name="NVIDIA H100", compute_capability="9.0", memory_gib=80.0, power_limit_w=700.0),),
    )  # fmt: skip
    report = GpuCheckReport(
        schema_version=2, name="h100", device="cuda", model="minilm-l6", data="BBC News", host=host, git_commit="abc",
        created="2026-01-01T00:00:00+00:00", minutes=6.0, steps=steps,
    )  # fmt: skip
    assert not report.is_passed
    write_gpu_report(tmp_path, report)
    text = (tmp_path / "report.md").read_text()
    for phrase in (
        "NVIDIA H100",
        "**failed**",
        "**missed**",
        "**fp32 is wrong**",
        "fp16 *",
        "1 x 16 12.5 s",
        "700.0 W",
        "tuned: **bf16 was rejected**: agreement 80 %",
        "tensorrt-fp16 was not run: it needs TensorRT.",
        "| tuned | fp16 | 120 | 3 | 2 |",
        "8 workers that share one engine process; 256 connections from 2 processes",
        "| 5,000 | **missed**: 5000, the floor is at least 8,000, and the load generator itself reaches 6000",
        "at most 1 |  | **not measured** |",
        "| 32 x 128 | torch compiled | 1 x |  |  | **not measured** (torch.compile failed: no C compiler) |",
        "| mixed lengths | torch eager | 2 x |  |  | **not measured** |",
    ):
        assert phrase in text
    assert GpuCheckReport.model_validate_json((tmp_path / "report.json").read_text()) == report
    assert (tmp_path / "report.png").read_bytes().startswith(b"\x89PNG")


def test_without_a_gpu_the_check_fails_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first step of the real plan alone; the others would need a model."""
    plan = gpu_check_main.plan_steps
    monkeypatch.setattr(gpu_check_main, "plan_steps", lambda *arguments, **names: plan(*arguments, **names)[:1])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(SystemExit) as end:
        main(["--device", "cuda", "--model", "m", "--data", "d", "--out", str(tmp_path / "out")])
    assert end.value.code == 1
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    (step,) = report["steps"]
    assert (step["name"], step["status"], step["exit_code"]) == ("environment", "failed", 1)
    assert step["detail"].startswith("error: ")
    assert "| environment | failed | 1 |" in capsys.readouterr().out


@pytest.mark.slow
def test_the_gpu_tests_are_skipped_or_pass(tmp_path: Path) -> None:
    names = {file.name for file in gpu_test_files(ROOT)}
    assert {"test_torch_device.py", "test_engine_benchmark.py"} <= names
    assert "test_http.py" not in names  # needs packages that a GPU machine may lack
    code, found = run_gpu_tests(ROOT, tmp_path / "result.json")
    assert code == 0
    assert json.loads((tmp_path / "result.json").read_text()) == found
    assert found["failed"] == []
    assert found["passed"] + found["skipped"] >= 3
    assert (found["skipped"] == 0) == (found["reasons"] == [])
    assert all(found["reasons"])


@pytest.mark.slow
def test_the_gpu_tests_that_ran_before_the_time_was_over_are_reported(tmp_path: Path) -> None:
    (tmp_path / "tests").mkdir()
    started = tmp_path / "started"
    lines = [
        "import pathlib, time, pytest", "pytestmark = pytest.mark.gpu", "def test_passes(): pass",
        "def test_fails(): raise ValueError", "@pytest.mark.skip('none')", "def test_is_skipped(): pass",
        f"def test_hangs(): pathlib.Path({str(started)!r}).touch(); time.sleep(60)",
    ]  # fmt: skip
    (tmp_path / "tests" / "test_gpu.py").write_text("\n".join(lines))
    script = (
        "import pathlib, signal, sys\n"
        "from tuneport.stages.benchmarks.gpu_check import gpu_tests\n"
        f"gpu_tests.PROCESSES, gpu_tests.ROOT = 1, pathlib.Path({str(tmp_path)!r})\n"
        "gpu_tests.main()"
    )
    result = tmp_path / "result.json"
    process = subprocess.Popen([sys.executable, "-P", "-c", script, "cuda", str(result)], start_new_session=True)
    ends_at = time.monotonic() + 60
    while not started.exists() and time.monotonic() < ends_at:
        time.sleep(0.02)
    process.terminate()
    assert process.wait(30) == 1
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # as the check ends what a step leaves
    assert json.loads(result.read_text()) == {
        "passed": 1, "failed": ["tests/test_gpu.py::test_fails"], "skipped": 1, "reasons": ["none"],
    }  # fmt: skip


@pytest.mark.slow
def test_answers_of_a_served_artifact_are_torch_s(tiny_artifact: Path, tiny_checkpoint: Path) -> None:
    found = compare_answers(tiny_artifact, tiny_checkpoint, "cpu")
    assert found["variant"] in {"fp32", "int8"}
    assert found["compared"] > SCALES["cpu"].bench_inputs
    assert found["gpu_memory_mib"] is None
    assert min(found["agreement"].values()) >= 0.95


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_every_step_passes_on_a_cpu(tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONPATH", raising=False)
    base = tiny_encoder(tmp_path / "base")
    arguments = ["--device", "cpu", "--model", str(base), "--data", str(tiny_data), "--out", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as end:
        main([*arguments, "--work", str(tmp_path / "work"), "--minutes", "20"])
    report = GpuCheckReport.model_validate_json((tmp_path / "out" / "report.json").read_text())
    assert {step.name: (step.status, step.detail) for step in report.steps if step.status != "passed"} == {}
    assert end.value.code == 0
    assert report.speeds().keys() == {"tuned", "random-bert", "all-variants"}
    assert report.finetuning
    assert report.training
    found = report.endpoint_figures()
    assert found
    assert (found.requests_per_s or 0) > 0
    assert found.added_ms is not None
    assert report.bench
    assert report.endpoint
    assert str(tmp_path) not in (tmp_path / "out" / "report.json").read_text()
    assert sys.executable not in (tmp_path / "out" / "report.md").read_text()
