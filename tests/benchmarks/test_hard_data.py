"""The benchmark of harder data sets: what its table says of an export, and the whole of it on a tiny model."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from kit import encoders

from tuneport.errors import TuneportError
from tuneport.schema.artifact import MANIFEST, Manifest, Rejected, Student
from tuneport.schema.run import RUN
from tuneport.stages.benchmarks import hard_data
from tuneport.stages.benchmarks.hard_data import main, measure, row_of, run_command, student_of


def test_the_table_says_what_serves_and_what_became_of_the_student(manifest: Manifest) -> None:
    chosen = manifest.variant(manifest.default_variant)
    row = row_of("news", manifest)
    assert row[:3] == ["news", chosen.name, f"{chosen.evidence.timing.texts_per_s:.0f}"]
    assert row[3] == f"{chosen.evidence.timing.texts_per_s / manifest.baselines[0].timing.texts_per_s:.2f} x"
    assert chosen.evidence.metric is not None
    assert row[6:8] == [f"accuracy {chosen.evidence.metric.torch:.4f}", f"{chosen.evidence.metric.value:.4f}"]
    assert row[8] == "none was tried"
    rejected = Rejected(name="pruned-int8", reason="agreement 80.00% < 90%")
    assert student_of(manifest.model_copy(update={"rejected": (rejected,)})) == "none: agreement 80.00% < 90%"
    student = Student(layers=(0, 2), full_layers=3, rows=100, steps=7, seconds=2.0)
    evidence = chosen.evidence.model_copy(update={"student": student})
    kept = manifest.model_copy(update={"variants": (chosen.model_copy(update={"evidence": evidence}),)})
    assert student_of(kept).startswith(f"{chosen.name}: 2 of 3 layers, 7 steps in 2 s, accuracy ")


def test_a_command_that_fails_is_an_error_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(TuneportError, match=r"tuneport inspect failed: error: .*run it by hand$"):
        run_command("inspect", str(tmp_path / "nothing"))


def test_only_what_was_made_with_the_same_settings_is_used_again(
    tiny_artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[str] = []

    def run(name: str, *arguments: str) -> None:
        commands.append(name)
        out = Path(arguments[arguments.index("--out") + 1])
        out.mkdir(parents=True)
        (out / RUN).touch()
        shutil.copyfile(tiny_artifact / MANIFEST, out / MANIFEST)

    monkeypatch.setattr(hard_data, "run_command", run)
    settings: dict[str, Any] = {"model": "a", "max_drop": 0.01, "minutes": 2.0, "is_quick": False}
    for change, expected in (
        ({}, ["finetune", "export"]),
        ({}, []),
        ({"max_drop": 0.02}, ["export"]),
        ({"minutes": 4.0}, ["export"]),
        ({"model": "b"}, ["finetune", "export"]),
        ({"is_quick": True}, ["finetune", "export"]),
        ({}, []),
    ):
        commands.clear()
        measure(tmp_path, tmp_path / "out", **{**settings, **change})
        assert commands == expected


@pytest.mark.slow
def test_data_sets_are_trained_and_exported(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(encoders, "MAX_LENGTH", 128)  # that of fine-tuning by default
    encoders.build_checkpoint(tmp_path / "checkpoint")
    arguments = ["--data", str(tiny_data.parent), "--sets", tiny_data.name, "--out", str(tmp_path), "--quick"]
    for _ in range(2):  # the second time reads what is there
        main([*arguments, "--model", str(tmp_path / "checkpoint"), "--max-drop", "1"])
    output = capsys.readouterr()
    assert output.err.count("tuneport finetune ") == output.err.count("tuneport export ") == 1
    line = output.out.splitlines()[2]
    assert tiny_data.name in line
    assert "a student needs a model of 3 layers or more" in line
