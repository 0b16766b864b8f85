"""The plan of the GPU check: which steps there are, in which order, what each needs, and how long it may take."""

import importlib.util
import itertools
from pathlib import Path

import pytest

from tuneport.stages.benchmarks.gpu_check.config import FLOORS_MINUTES, MINUTES
from tuneport.stages.benchmarks.gpu_check.gpu_tests import ROOT
from tuneport.stages.benchmarks.gpu_check.main import plan_steps
from tuneport.stages.benchmarks.gpu_check.plan import remove_earlier
from tuneport.stages.benchmarks.gpu_check.steps import Step
from tuneport.stages.benchmarks.gpu_check.variants import expected_variants, impossible_variants
from tuneport.stages.export import applicable


def options(step: Step) -> dict[str, str]:
    """Return the options of a command."""
    words = step.command
    return {name: value for name, value in itertools.pairwise(words) if name.startswith("--")}


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
