"""T5, Marian and BART, from a fine-tuning run to a prediction: what transformers generates, variants and evidence."""

import json
from pathlib import Path

import pytest
from kit.command import tuneport
from kit.generative_exports import Export, operators
from kit.transformers_alone import (
    assert_batches_change_nothing,
    assert_fp32_generates_the_same,
    assert_golden_cases_hold_margins,
    assert_io_binding_changes_nothing,
    assert_the_metric_is_the_same,
    generate_with_transformers,
)

from tuneport.stages.export.checkpoint import open_checkpoint
from tuneport.stages.export.footprint import measure_footprint
from tuneport.tasks import task_spec


@pytest.mark.parametrize("family", ["t5", "marian", "bart"])
def test_fp32_generates_what_transformers_generates(family: str, exported: Export) -> None:
    assert_fp32_generates_the_same(exported(family))


@pytest.mark.parametrize("family", ["t5", "marian", "bart"])
def test_the_metric_is_that_of_what_transformers_generates(family: str, exported: Export) -> None:
    assert_the_metric_is_the_same(exported(family))


def test_rouge_l_counts_the_words_in_order(exported: Export) -> None:
    checkpoint = open_checkpoint(exported("bart").run)
    task = task_spec("summarization").task_class("export")(checkpoint)
    assert task.score_texts(["two one three"], ["one two three"]) == pytest.approx(2 / 3)


@pytest.mark.parametrize("family", ["t5", "marian"])
def test_io_binding_changes_nothing(family: str, exported: Export) -> None:
    assert_io_binding_changes_nothing(exported(family))


def test_alone_in_a_batch_and_permuted_the_predictions_are_the_same(exported: Export) -> None:
    assert_batches_change_nothing(exported("marian"))


def test_variants_that_fit_and_their_evidence(exported: Export) -> None:
    model = exported("t5")
    assert [variant.name for variant in model.manifest.variants] == ["fp32", "int8", "int4"]
    fp32, _, int4 = model.manifest.variants
    assert int4.execution.size_bytes < fp32.execution.size_bytes
    assert all(variant.evidence.timing.texts_per_s > 0 for variant in model.manifest.variants)
    assert "MatMulNBits" in operators(model.artifact / "onnx/int4/decoder_model_merged.onnx")
    assert "MatMulInteger" in operators(model.artifact / "onnx/int8/encoder_model.onnx")
    answer = tuneport("verify", model.artifact)
    assert answer.code == 0
    assert [line.split(":")[0] for line in answer.out.splitlines()] == ["not signed", "fp32", "int8", "int4"]
    assert "chrf" in tuneport("inspect", model.artifact).out


@pytest.mark.slow
def test_the_footprint_is_that_of_a_process_with_torch(exported: Export) -> None:
    model = exported("marian")
    manifest = model.manifest
    (execution,) = [variant.execution for variant in manifest.variants]
    footprint = measure_footprint(model.artifact, manifest.task, (), manifest.processing, execution, model.inputs[:2])
    assert footprint.memory_mib > 10
    assert footprint.cold_start_ms > 10


def test_beams_are_those_of_transformers(exported: Export) -> None:
    model = exported("marian")
    predictions = model.predictor.predict(model.inputs[:3], {"num_beams": 3})
    expected = generate_with_transformers(model, model.inputs[:3], num_beams=3)
    assert [each["text"] for each in predictions] == expected


def test_bench_compares_with_torch(exported: Export, tmp_path: Path) -> None:
    options = ("--out", tmp_path / "report", "--rounds", "1", "--num-inputs", "4")
    answer = tuneport("bench", exported("marian").artifact, *options)
    assert answer.code == 0, answer.err
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    names = [each["name"] for each in report["results"]]
    assert names[0] == "torch fp32"
    assert names[-1] == "fp32"
    assert all(each["timing"]["texts_per_s"] > 0 for each in report["results"])


def test_golden_cases_hold_tokens_and_their_margins(exported: Export) -> None:
    assert_golden_cases_hold_margins(exported("t5"))
