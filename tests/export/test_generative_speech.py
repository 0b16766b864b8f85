"""Whisper, from a fine-tuning run to a transcript."""

import base64
import json
from pathlib import Path

import pytest
from kit.command import tuneport
from kit.generative_exports import Export
from kit.transformers_alone import (
    assert_batches_change_nothing,
    assert_fp32_generates_the_same,
    assert_golden_cases_hold_margins,
    assert_io_binding_changes_nothing,
    assert_the_metric_is_the_same,
    transcribe_with_transformers,
)

from tuneport.errors import InputError


def test_fp32_generates_what_transformers_generates(exported: Export) -> None:
    assert_fp32_generates_the_same(exported("whisper"))


def test_the_metric_is_that_of_what_transformers_generates(exported: Export) -> None:
    assert_the_metric_is_the_same(exported("whisper"))


def test_io_binding_changes_nothing(exported: Export) -> None:
    assert_io_binding_changes_nothing(exported("whisper"))


def test_alone_in_a_batch_and_permuted_the_predictions_are_the_same(exported: Export) -> None:
    assert_batches_change_nothing(exported("whisper"))


def test_every_file_is_in_the_manifest(exported: Export) -> None:
    model = exported("whisper")
    of_variants = {file.path for variant in model.manifest.variants for file in variant.execution.files}
    listed = {file.path for file in model.manifest.files} | of_variants
    found = {path.relative_to(model.artifact).as_posix() for path in model.artifact.rglob("*") if path.is_file()}
    assert listed == found - {"manifest.json"}
    assert {"processor/tokenizer.json", "processor/preprocessor_config.json"} <= listed
    for name in ("encoder_model.onnx", "decoder_model_merged.onnx", "config.json", "generation_config.json"):
        assert f"onnx/fp32/{name}" in listed
    assert model.manifest.inputs[0].name == "input_features"
    assert [each.name for each in model.manifest.outputs] == ["logits"]


def test_recordings_come_as_paths_on_the_command_line_alone(exported: Export, tmp_path: Path) -> None:
    model = exported("whisper")
    data = model.data
    answer = tuneport("predict", model.artifact, data / "0.wav", data / "1.wav", "--variant", "fp32")
    expected = transcribe_with_transformers(model, [0, 1])
    assert [json.loads(line)["text"] for line in answer.out.splitlines()] == expected
    assert tuneport("predict", model.artifact, tmp_path / "gone.wav").code == 1
    predictor = model.predictor
    for value in (str(data / "0.wav"), {"audio": "no base64"}, {"audio": base64.b64encode(b"no sound").decode()}, 3):
        with pytest.raises(InputError):
            predictor.predict([value])


def test_golden_cases_hold_tokens_and_their_margins(exported: Export) -> None:
    assert_golden_cases_hold_margins(exported("whisper"))
