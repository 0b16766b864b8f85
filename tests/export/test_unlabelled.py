"""Data without labels: answers are compared with torch's, and there is no metric."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from kit.command import tuneport
from kit.data import read_rows, write_rows
from kit.exports import prepare, shift

from tuneport.data.sample import read_sample
from tuneport.errors import DataError, GateError, TuneportError
from tuneport.schema.artifact import Manifest, Parity, Rejected
from tuneport.schema.loading import load_manifest
from tuneport.schema.run import DataSource
from tuneport.stages.benchmarks.baselines import open_baseline, read_workload
from tuneport.stages.benchmarks.config import BenchConfig
from tuneport.stages.export.applicable import select_variants
from tuneport.stages.export.build import Passed
from tuneport.stages.export.config import MIN_UNLABELLED_ROWS, ExportConfig
from tuneport.stages.export.families import export_family
from tuneport.stages.export.gate import Measurement, check
from tuneport.stages.export.source import open_source
from tuneport.stages.export.variants import VARIANTS
from tuneport.tasks import FamilyName, all_tasks, task_spec

quick = pytest.mark.usefixtures("_quick_exports")


@pytest.fixture
def inputs(tiny_data: Path, tmp_path: Path) -> Path:
    """A single file of texts, as many as are needed, with a label column that no model here could read."""
    texts = [row["text"] for file in sorted(tiny_data.glob("*.jsonl")) for row in read_rows(file)]
    rows = [{"text": f"{texts[i % len(texts)]} {i}", "label": "?"} for i in range(MIN_UNLABELLED_ROWS)]
    return write_rows(tmp_path / "inputs.jsonl", rows)


def config(checkpoint: Path, data: Path, **settings: object) -> ExportConfig:
    return ExportConfig.model_validate({"checkpoint": checkpoint, "data": str(data), "unlabelled": True, **settings})


@quick
def test_a_variant_that_answers_as_torch_does_goes_in(tiny_checkpoint: Path, inputs: Path, tmp_path: Path) -> None:
    answer = tuneport(
        "export", tiny_checkpoint, "--data", inputs, "--unlabelled", "--out", tmp_path / "out", "--variants", "fused"
    )
    assert answer.code == 0, answer.err
    manifest = load_manifest(tmp_path / "out")
    evidence = manifest.variant("fused").evidence
    assert evidence.parity.texts == MIN_UNLABELLED_ROWS  # none was kept back for training
    assert evidence.metric is None
    assert manifest.calibration is None
    assert "labels not read" in tuneport("inspect", tmp_path / "out").out
    card = (tmp_path / "out" / "README.md").read_text()
    assert "inputs.jsonl (100 rows, labels not read)" in card
    assert "no labels" in card
    assert_benchmarks_read_it(manifest)


def assert_benchmarks_read_it(manifest: Manifest) -> None:
    settings = BenchConfig(artifact=Path(), num_inputs=30)
    workload = read_workload(manifest, open_baseline(manifest, settings).task, settings)
    assert len(workload.inputs) == 30
    assert workload.targets == []


@pytest.mark.parametrize(("by", "is_rejected"), [(0.0, False), (1000.0, True)])
def test_a_variant_that_answers_otherwise_is_left_out(
    tiny_checkpoint: Path, inputs: Path, tmp_path: Path, by: float, is_rejected: bool
) -> None:
    folder = tmp_path / "prepared"
    folder.mkdir()
    prepared = prepare(folder, tiny_checkpoint, inputs, unlabelled=True)
    spec = replace(VARIANTS["int8"], passes={"encoder": (shift(by),)})
    outcome = prepared.builder(tmp_path / "out").build_and_validate("int8", spec)
    if is_rejected:
        assert isinstance(outcome, Rejected)
        assert re.fullmatch(r"agreement [\d.]+% < 99% \(.*\)", outcome.reason)
    else:
        assert isinstance(outcome, Passed)


@pytest.mark.parametrize(("family", "name"), [("encoder", "int8"), ("generative", "int8"), ("encoder", "fp16")])
@pytest.mark.parametrize(("max_drop", "least"), [(0.01, 0.99), (0.005, 0.995), (0.5, 0.99), (0.0, 1.0)])
def test_agreement_limits_what_the_metric_would(family: FamilyName, name: str, max_drop: float, least: float) -> None:
    task = next(each for each in all_tasks().values() if each.family == family)
    thresholds = VARIANTS[name].thresholds(max_drop, 1.0, export_family(task.name), is_unlabelled=True)
    assert thresholds.min_agreement == pytest.approx(least)
    parity = Parity(golden_cases=1, texts=999, max_abs_diff=0.1, golden_max_abs_diff=0.1, agreement=least - 1e-3)
    with pytest.raises(GateError, match="agreement"):
        check(Measurement(parity, None), thresholds)


def test_too_few_inputs_are_refused(tiny_checkpoint: Path, inputs: Path) -> None:
    write_rows(inputs, read_rows(inputs)[1:])
    with pytest.raises(DataError, match=r"has 99 different inputs to compare .*; give 100 or more"):
        open_source(config(tiny_checkpoint, inputs))


def test_repeated_inputs_count_once(tiny_checkpoint: Path, inputs: Path) -> None:
    write_rows(inputs, read_rows(inputs)[:50] * 3)
    with pytest.raises(DataError, match=r"has 50 different inputs"):
        open_source(config(tiny_checkpoint, inputs))


def test_inputs_of_a_sorted_file_are_drawn(tiny_checkpoint: Path, inputs: Path) -> None:
    write_rows(inputs, [{"text": f"number {i}"} for i in range(1000)])
    drawn = [
        int(text.split()[1]) for text in open_source(config(tiny_checkpoint, inputs, max_gate_rows=100)).sample.inputs
    ]
    assert drawn == sorted(drawn)
    assert len(drawn) == 100
    assert min(drawn) < 100
    assert max(drawn) >= 900


def test_a_folder_needs_no_train_file(tiny_checkpoint: Path, inputs: Path, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    inputs.rename(tmp_path / "folder" / "test.jsonl")
    source = open_source(config(tiny_checkpoint, tmp_path / "folder"))
    assert (source.sample.split, len(source.sample.inputs)) == ("test", MIN_UNLABELLED_ROWS)


def test_columns_of_targets_need_no_new_options(tiny_checkpoint: Path, inputs: Path) -> None:
    source = open_source(config(tiny_checkpoint, inputs, columns={"text": "text", "label": "gone"}))
    assert len(source.sample.inputs) == MIN_UNLABELLED_ROWS


def test_lists_of_labels_tell_that_there_may_be_several(tiny_checkpoint: Path, inputs: Path) -> None:
    write_rows(inputs, [{"text": row["text"], "labels": ["?"]} for row in read_rows(inputs)])
    assert open_source(config(tiny_checkpoint, inputs)).checkpoint.facts.problem_type == "multi_label_classification"


def test_agreement_is_that_of_the_data_alone() -> None:
    """Golden cases that agree make up for no input that does not."""
    parity = Parity(golden_cases=26, texts=180, max_abs_diff=0.1, golden_max_abs_diff=0.1, agreement=204 / 206)
    limits = VARIANTS["int8"].thresholds(0.01, 1.0, export_family("text-classification"), is_unlabelled=True)
    with pytest.raises(GateError, match=r"agreement 98\.89% < 99%"):
        check(Measurement(parity, None, unlabelled_agreement=178 / 180), limits)
    with pytest.raises(GateError, match=r"agreement 0\.00% < 99%"):
        check(Measurement(parity, None, unlabelled_agreement=0.0), limits)


def test_a_record_of_labelled_data_is_that_of_versions_without_the_setting(manifest: Manifest) -> None:
    data = manifest.provenance.data
    assert data is not None
    assert "unlabelled" not in data.model_dump()
    hidden = data.model_copy(update={"unlabelled": True})
    assert DataSource.model_validate_json(hidden.model_dump_json()) == hidden


def test_few_gate_rows_are_refused_by_the_setting(tiny_checkpoint: Path, inputs: Path, tmp_path: Path) -> None:
    answer = tuneport(
        "export", tiny_checkpoint, "--data", inputs, "--unlabelled", "--max-gate-rows", "99", "--out", tmp_path / "out"
    )
    assert answer.code == 2
    assert "raise max_gate_rows" in answer.err


def test_a_benchmark_takes_inputs_without_labels(tiny_checkpoint: Path, manifest: Manifest, inputs: Path) -> None:
    write_rows(inputs, [{"text": row["text"]} for row in read_rows(inputs)])
    settings = BenchConfig(artifact=Path(), data=str(inputs), num_inputs=30)
    workload = read_workload(manifest, open_baseline(manifest, settings).task, settings)
    assert len(workload.inputs) == 30
    assert workload.targets == []


def test_the_error_for_labels_that_are_missing_names_the_setting(tiny_checkpoint: Path, inputs: Path) -> None:
    write_rows(inputs, [{"text": row["text"]} for row in read_rows(inputs)])
    labelled = config(tiny_checkpoint, inputs).model_copy(update={"unlabelled": False})
    with pytest.raises(DataError, match=r"no column 'label'.*--columns label=YOUR_COLUMN.*--unlabelled"):
        open_source(labelled)
    write_rows(inputs, [{"txt": row["text"], "label": "calm"} for row in read_rows(inputs)])
    with pytest.raises(DataError) as caught:
        open_source(labelled)
    assert "--unlabelled" not in str(caught.value)


def test_students_need_labels() -> None:
    assert not any(name.startswith("pruned") for name in select_variants((), "cpu", rows=100, unlabelled=True))
    with pytest.raises(TuneportError, match=r"pruned-int8 is a student.*without --unlabelled"):
        select_variants(("pruned-int8",), "cpu", rows=100, unlabelled=True)


def test_a_model_of_texts_without_targets_refuses_the_setting(chat: Path, inputs: Path) -> None:
    with pytest.raises(
        TuneportError, match="text-generation has no columns of targets to leave unread; leave out --unlabelled"
    ):
        open_source(config(chat.parent / "llama", inputs))


def test_the_setting_needs_data(tiny_checkpoint: Path, tmp_path: Path) -> None:
    answer = tuneport("export", tiny_checkpoint, "--unlabelled", "--out", tmp_path / "out")
    assert answer.code == 2
    assert "unlabelled says how data is read" in answer.err


@pytest.mark.parametrize(
    ("task", "row"),
    [
        ("token-classification", {"tokens": ["Ann", "sleeps"]}),
        ("token-classification", {"tokens": "Ann sleeps"}),
        ("question-answering", {"question": "Who?", "context": "Ann."}),
        ("regression", {"text": "Ann sleeps"}),
        ("translation", {"source": "Ann sleeps"}),
    ],
)
def test_every_task_with_targets_reads_rows_without_them(
    task: str, row: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = task_spec(task).task_class("export")
    monkeypatch.setattr(kind, "__init__", lambda _: None)
    reader = kind()
    reader.columns, reader.optional_columns = task_spec(task).columns, ()
    sample = read_sample(
        reader,
        data=str(write_rows(tmp_path / "rows.jsonl", [row, row])),
        columns={},
        seed=0,
        splits=("validation",),
        count=9,
        unlabelled=True,
    )
    assert len(sample.inputs) == 1
    assert sample.targets == []
