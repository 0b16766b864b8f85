"""Temperature scaling: the temperature is found again, its effect is measured, and serving applies it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kit.data import read_rows
from kit.encoders import LABELS

from tuneport.runtime.predictor import Predictor
from tuneport.schema.artifact import Manifest
from tuneport.stages.export.calibration import calibrate, calibration_error, fit_temperature


def random_logits(temperature: float, rows: int = 4000) -> tuple[Any, Any]:
    """Return logits, and labels that are drawn from their probabilities at a temperature."""
    generator = np.random.default_rng(1)
    logits = generator.normal(size=(rows, 3)).astype(np.float32) * 3
    powers = np.exp(logits / temperature)
    probabilities = powers / powers.sum(-1, keepdims=True)
    targets = np.array([generator.choice(3, p=row) for row in probabilities])
    return logits, targets


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_a_temperature_is_found_again(temperature: float) -> None:
    logits, targets = random_logits(temperature)
    assert fit_temperature(logits, targets) == pytest.approx(temperature, rel=0.1)
    calibration = calibrate(logits, targets)
    assert calibration is not None
    assert calibration.error_after < 0.03
    assert (calibration.error_before > 2 * calibration.error_after) == (temperature != 1.0)


def test_the_error_of_a_model_that_is_sure_and_half_right_is_one_half() -> None:
    logits = np.array([[50.0, 0.0]] * 10, np.float32)
    assert calibration_error(logits, np.array([0] * 5 + [1] * 5)) == pytest.approx(0.5)
    assert calibrate(logits, np.zeros(10, np.int64)) is None


def test_the_temperature_that_helps_is_applied_in_serving(manifest: Manifest, tiny_artifact: Path) -> None:
    calibration = manifest.calibration
    assert calibration is not None
    helps = calibration.error_after < calibration.error_before
    assert manifest.processing.temperature == (calibration.temperature if helps else 1.0)
    case = read_rows(tiny_artifact / "golden.jsonl")[0]
    logits = np.array(case["outputs"][0]["logits"]) / manifest.processing.temperature
    probabilities = np.exp(logits) / np.exp(logits).sum()
    (prediction,) = Predictor(tiny_artifact, "fp32").predict([case["input"]])
    assert prediction["label"] == LABELS[int(probabilities.argmax())]
    assert prediction["score"] == pytest.approx(float(probabilities.max()), abs=1e-3)
