"""What `tuneport bench --compare` calls better or worse, and what it makes of files that are no reports."""

from pathlib import Path
from typing import Any

import pytest
from kit.command import tuneport
from kit.reports import engine_report, model_result

from tuneport.errors import DataError
from tuneport.stages.benchmarks.compare import Change, compare
from tuneport.stages.benchmarks.report import Report


def write(folder: Path, name: str, report: Report) -> Path:
    file = folder / f"{name}.json"
    file.write_text(report.model_dump_json(), encoding="utf-8")
    return file


def changes(tmp_path: Path, old: dict[str, Any], new: dict[str, Any], **host: Any) -> dict[str, Change]:
    before = write(tmp_path, "old", engine_report(model_result("int8", **old)))
    after = write(tmp_path, "new", engine_report(model_result("int8", **new), **host))
    return {each.figure: each for each in compare(before, after).changes}


QUIET, NOISY = (98.0, 102.0), (70.0, 130.0)


@pytest.mark.parametrize(
    ("interval", "speed", "new_interval", "verdict"),
    [
        (QUIET, 120, (118, 122), "better"),
        (QUIET, 80, (78, 82), "worse"),
        (NOISY, 80, (78, 82), "same"),
        (None, 50, None, "same"),  # without an interval nothing is proven
    ],
)
def test_a_difference_counts_only_beyond_noise(
    tmp_path: Path, interval: Any, speed: float, new_interval: Any, verdict: str
) -> None:
    old = {"texts_per_s": 100, "texts_per_s_interval": interval}
    found = changes(tmp_path, old, {"texts_per_s": speed, "texts_per_s_interval": new_interval})["texts/s"]
    assert found.verdict == verdict
    assert found.gain == pytest.approx(speed / 100 - 1)


def test_a_shorter_latency_is_better(tmp_path: Path) -> None:
    old = {"latency_ms_p50": 10.0, "latency_ms_p50_interval": (9.0, 11.0)}
    new = {"latency_ms_p50": 5.0, "latency_ms_p50_interval": (4.0, 6.0)}
    assert changes(tmp_path, old, new)["p50 ms"].gain == pytest.approx(1.0)
    assert changes(tmp_path, new, old)["p50 ms"].verdict == "worse"


def test_on_another_machine_only_ratios_are_compared(tmp_path: Path) -> None:
    speed_up = {"speed_up": 2.0, "speed_up_interval": (1.9, 2.1), "baseline": "torch fp32"}
    found = changes(tmp_path, speed_up, {**speed_up, "speed_up": 3.0, "speed_up_interval": (2.9, 3.1)}, cores=64)
    assert list(found) == ["speed-up against torch fp32"]
    assert found["speed-up against torch fp32"].verdict == "better"


@pytest.mark.parametrize(("threshold", "code"), [("0.05", 1), ("0.5", 0)])
def test_a_regression_over_the_threshold_exits_with_1(tmp_path: Path, threshold: str, code: int) -> None:
    old = write(tmp_path, "old", engine_report(model_result("int8", texts_per_s=100, texts_per_s_interval=QUIET)))
    new = write(tmp_path, "new", engine_report(model_result("int8", texts_per_s=80, texts_per_s_interval=(78, 82))))
    answer = tuneport("bench", "--compare", old, new, "--max-regression", threshold)
    assert answer.code == code
    assert "worse" in answer.out
    assert ("int8 texts/s (-20.0%)" in answer.err) == (code == 1)
    assert tuneport("bench", "--compare", new, old).code == 0


@pytest.mark.parametrize(
    ("content", "phrase"),
    [("{}", "no report of this version"), ("no json", "no report of this version"), (None, "cannot be read")],
)
def test_what_is_no_report_is_named(tmp_path: Path, content: str | None, phrase: str) -> None:
    file = tmp_path / "old.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(DataError, match=phrase):
        compare(file, file)


def test_reports_without_a_common_model_are_refused(tmp_path: Path) -> None:
    old = write(tmp_path, "old", engine_report(model_result("int8")))
    new = write(tmp_path, "new", engine_report(model_result("fp16")))
    with pytest.raises(DataError, match="nothing to compare"):
        compare(old, new)


def test_bench_needs_an_artifact_or_two_reports() -> None:
    answer = tuneport("bench")
    assert answer.code == 2
    assert "--compare OLD NEW" in answer.err
