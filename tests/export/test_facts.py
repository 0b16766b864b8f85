"""What training knew travels to the export; for other checkpoints it comes from the data or is asked for."""

import json
from pathlib import Path
from typing import Any

import pytest
import transformers
from kit.data import QUICK, write_splits
from kit.encoders import tiny_encoder
from kit.exports import export_variants, quick_exports
from kit.runs import quick_reports
from transformers import AutoModelForSequenceClassification

from tuneport.errors import CheckpointError, DataError
from tuneport.stages.export.config import ExportConfig
from tuneport.stages.export.source import open_source
from tuneport.stages.finetune.config import load_config
from tuneport.stages.finetune.train import finetune

IOB1_ROWS = [
    {"tokens": ["anna", "met", "ben"], "tags": ["I-X", "O", "I-X"]},
    {"tokens": ["anna", "ben"], "tags": ["I-X", "B-X"]},
]
BIO_ROWS = [
    {"tokens": ["anna", "smith", "met", "ben"], "tags": ["B-X", "I-X", "O", "B-X"]},
    {"tokens": ["in", "oslo"], "tags": ["O", "B-Y"]},
]
NO_ENTITY = [{"tokens": ["the"], "tags": ["O"]}]


def save_tagger(folder: Path, *labels: str) -> Path:
    tiny_encoder(folder)
    options = {"id2label": dict(enumerate(labels))}
    model = transformers.AutoModelForTokenClassification.from_pretrained(folder, **options)
    model.save_pretrained(folder)
    return folder


def test_the_gate_scores_the_scheme_that_training_scored(tmp_path: Path) -> None:
    """As BIO, of which IOB1 has the tags, a model that finds nothing has none of two entities."""
    data = write_splits(tmp_path / "data", train=IOB1_ROWS * 8, validation=IOB1_ROWS)
    flags = {"task": "token-classification", "model": str(tiny_encoder(tmp_path / "base")), "data": str(data)}
    with quick_reports():
        run = finetune(load_config(flags={**QUICK, **flags}), tmp_path / "run")
    assert run.tag_scheme == "IOB1"
    assert run.inputs == ("input_ids", "token_type_ids", "attention_mask")
    with quick_exports():
        manifest = export_variants(tmp_path / "run", data, tmp_path / "artifact", "fp32")
    assert manifest.processing.tag_scheme == "IOB1"
    metric = manifest.variant("fp32").evidence.metric
    assert metric is not None
    assert metric.torch == pytest.approx(run.metrics["validation"]["f1"], abs=1e-9)
    with pytest.raises(CheckpointError, match="was trained on IOB1 tags, and --tag-scheme names another"):
        export_variants(tmp_path / "run", data, tmp_path / "other", "fp32", tag_scheme="BIO")


@pytest.mark.parametrize(
    ("rows", "named", "found"),
    [(IOB1_ROWS, None, "IOB1"), (BIO_ROWS, None, "BIO"), (NO_ENTITY, "IOB1", "IOB1")],
)
def test_the_scheme_of_a_checkpoint_without_a_run_comes_from_the_data_or_the_user(
    tmp_path: Path, rows: Any, named: Any, found: str
) -> None:
    checkpoint = save_tagger(tmp_path / "checkpoint", "O", "B-X", "I-X", "B-Y")
    data = write_splits(tmp_path / "data", train=rows, validation=rows)
    config = ExportConfig(checkpoint=checkpoint, data=str(data), tag_scheme=named)
    assert open_source(config).task.processing().tag_scheme == found


def test_a_scheme_that_nothing_tells_is_asked_for(tmp_path: Path) -> None:
    checkpoint = save_tagger(tmp_path / "checkpoint", "O", "B-X", "I-X")
    data = write_splits(tmp_path / "data", train=NO_ENTITY, validation=NO_ENTITY)
    for source in (None, str(data)):
        with pytest.raises(CheckpointError, match="are those of BIO and of IOB1; name the scheme with --tag-scheme"):
            open_source(ExportConfig(checkpoint=checkpoint, data=source))


@pytest.mark.parametrize(
    ("labels", "scheme"),
    [(("O", "B-X", "L-X", "U-X"), "BILOU"), (("O", "S-X"), "BIOES"), (("O", "I-X"), "IO"), (("O", "X", "Y"), "IO")],
)
def test_labels_of_one_scheme_alone_tell_it(tmp_path: Path, labels: tuple[str, ...], scheme: str) -> None:
    source = open_source(ExportConfig(checkpoint=save_tagger(tmp_path / "checkpoint", *labels)))
    assert source.task.processing().tag_scheme == scheme


@pytest.mark.parametrize(
    ("labels", "problem"),
    [
        (("O", "B-X", "M-X", "E-X"), "tag 'M-X' is malformed, and O or B-, I-, E-, S- with a type is expected"),
        (("O", "S-X", "U-X"), "labels of no tag scheme"),
        (("O", "B-X", "B-X"), "several labels named 'B-X'; give each its own name in id2label"),
    ],
)
def test_labels_of_no_scheme_are_refused(tmp_path: Path, labels: tuple[str, ...], problem: str) -> None:
    checkpoint = save_tagger(tmp_path / "checkpoint", *labels)
    config_file = checkpoint / "config.json"
    config_file.write_text(
        json.dumps({**json.loads(config_file.read_text()), "id2label": dict(enumerate(labels)), "label2id": {}})
    )
    with pytest.raises(CheckpointError, match=problem):
        open_source(ExportConfig(checkpoint=checkpoint))


def test_rows_in_another_scheme_than_the_models_are_named(tmp_path: Path) -> None:
    checkpoint = save_tagger(tmp_path / "checkpoint", "O", "B-X", "I-X")
    data = write_splits(tmp_path / "data", train=IOB1_ROWS, validation=IOB1_ROWS)
    with pytest.raises(DataError, match=r"validation\.jsonl row 1: tag 'I-X' follows 'O', which BIO does not allow"):
        open_source(ExportConfig(checkpoint=checkpoint, data=str(data), tag_scheme="BIO"))


def test_labels_of_the_run_and_of_its_checkpoint_must_be_the_same(tmp_path: Path) -> None:
    data = write_splits(tmp_path / "data", train=BIO_ROWS * 4, validation=[BIO_ROWS[0]])
    flags = {"task": "token-classification", "model": str(tiny_encoder(tmp_path / "base")), "data": str(data)}
    with quick_reports():
        finetune(load_config(flags={**QUICK, **flags}), tmp_path / "run")
    config_file = tmp_path / "run" / "checkpoint" / "config.json"
    content = json.loads(config_file.read_text())
    content["id2label"] = dict(zip(content["id2label"], reversed(content["id2label"].values()), strict=True))
    config_file.write_text(json.dumps(content))
    record = tmp_path / "run" / "run.json"  # of a version that did not record the checkpoint's hash
    record.write_text(json.dumps({**json.loads(record.read_text()), "checkpoint_sha256": None}))
    with pytest.raises(CheckpointError, match=r"has the labels \[.*'O'\] and the run \['O', "):
        open_source(ExportConfig(checkpoint=tmp_path / "run"))


def test_lists_of_labels_in_the_data_make_a_model_one_of_several_labels(tmp_path: Path) -> None:
    """A configuration need not say so; numbers stand for the classes of a model that names none like them."""
    tiny_encoder(tmp_path / "checkpoint")
    options = {"id2label": {0: "a", 1: "b", 2: "c"}}
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "checkpoint", **options)
    model.save_pretrained(tmp_path / "checkpoint")
    for labels, indices in (([["a", "c"], ["b"]], [[0, 2], [1]]), ([[1], [0, 2]], [[1], [0, 2]]),
                            ([[0, 1, 1], [1, 0, 0]], [[1, 2], [0]])):  # fmt: skip
        rows = [{"text": "anna met ben", "labels": each} for each in labels]
        data = write_splits(tmp_path / "data", train=rows * 10, validation=rows)
        source = open_source(ExportConfig(checkpoint=tmp_path / "checkpoint", data=str(data)))
        assert source.task.processing().problem_type == "multi_label_classification"
        assert source.sample.targets == indices
    rows = [{"text": "anna met ben", "label": 2}, {"text": "anna met ben", "label": 0}]
    data = write_splits(tmp_path / "data", train=rows * 10, validation=rows)
    source = open_source(ExportConfig(checkpoint=tmp_path / "checkpoint", data=str(data)))
    assert source.task.processing().problem_type == "single_label_classification"
    assert source.sample.targets == [[2], [0]]
