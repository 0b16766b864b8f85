"""The predictor: its checks at the start, and answers that depend on nothing but the input."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from kit.artifacts import alter_golden, change_byte
from kit.encoders import LABELS
from kit.texts import random_texts

from tuneport.errors import ArtifactError, GateError, InputError
from tuneport.runtime.loading import open_runner
from tuneport.runtime.predictor import Predictor
from tuneport.runtime.verify import verify
from tuneport.schema.artifact import Manifest
from tuneport.schema.loading import load_golden


@pytest.mark.parametrize("variant", ["fp32", "int8"])
def test_a_text_alone_is_answered_as_in_a_list(tiny_artifact: Path, variant: str) -> None:
    predictor = Predictor(tiny_artifact, variant)
    texts = ["bank", "", "the team won the game " * 30, "no"] * 10
    together = predictor.predict(texts)
    assert [each["label"] for each in together] == [predictor.predict([text])[0]["label"] for text in texts]
    assert predictor.predict([]) == []
    assert predictor.describe()["variant"] == variant


def test_a_small_token_limit_changes_no_answer(tiny_artifact: Path) -> None:
    texts = ["bank fell", "the", "team " * 50] * 5
    large, small = (Predictor(tiny_artifact, "fp32", max_batch_tokens=tokens).predict(texts) for tokens in (4096, 1))
    assert [each["label"] for each in large] == [each["label"] for each in small]
    np.testing.assert_allclose([each["score"] for each in large], [each["score"] for each in small], atol=1e-4)


def test_a_damaged_file_stops_the_start(artifact: Path) -> None:
    change_byte(artifact / "onnx" / "int8" / "model.onnx")
    assert Predictor(artifact, "fp32").variant.name == "fp32"
    with pytest.raises(ArtifactError, match="SHA-256"):
        Predictor(artifact, "int8")


def test_a_variant_whose_outputs_differ_here_stops_the_start(artifact: Path) -> None:
    alter_golden(artifact, 0.01)
    case = str(load_golden(artifact)[3].input)[:20]
    with pytest.raises(GateError, match=r"differs from torch by 0\.01") as caught:
        Predictor(artifact, "fp32")
    assert case in caught.value.problem
    assert Predictor(artifact, "int8").variant.name == "int8"


def test_a_nan_in_the_golden_cases_stops_the_start(artifact: Path) -> None:
    alter_golden(artifact, float("nan"))
    with pytest.raises(GateError):
        Predictor(artifact, "fp32")


def test_verify_checks_every_variant(tiny_artifact: Path) -> None:
    found = {name: (difference, tolerance) for name, difference, tolerance, _ in verify(tiny_artifact)}
    assert found.keys() == {"fp32", "int8"}
    assert all(difference <= tolerance for difference, tolerance in found.values())
    assert found["fp32"][1] == 1e-3


def test_half_a_surrogate_pair_is_wrong_input(tiny_artifact: Path) -> None:
    with pytest.raises(InputError, match=r"inputs\[1\].*surrogate"):
        Predictor(tiny_artifact).predict(["bank", "\ud800"])


def test_labels_are_those_of_the_checkpoint(manifest: Manifest) -> None:
    assert manifest.labels == LABELS


@pytest.mark.parametrize("variant", ["fp32", "int8"])
def test_an_output_does_not_depend_on_what_shares_its_batch(
    tiny_artifact: Path, manifest: Manifest, variant: str
) -> None:
    runner = open_runner(tiny_artifact, manifest, manifest.variant(variant))
    texts = ["bank", *itertools.islice(random_texts(5), 20)]
    rows = [windows[0] for windows in runner.task.encode(texts)]
    alone = [runner.run_batch([row])[0]["logits"] for row in rows]
    together = [result["logits"] for result in runner.run_batch(rows)]
    np.testing.assert_allclose(together, alone, atol=1e-3)


def test_dynamic_int8_is_found_to_depend_on_its_batch(manifest: Manifest) -> None:
    alone = {variant.name: variant.execution.single_row_batches for variant in manifest.variants}
    assert alone == {"fp32": False, "int8": True}
