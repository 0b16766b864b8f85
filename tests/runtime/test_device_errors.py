"""Failures of a device: what their texts mean, and what a runner does about them."""

from pathlib import Path

import numpy as np
import pytest
from kit.failures import ARENA_FULL, LOST, MEMORY, NEITHER, fail_above
from kit.texts import random_texts

from tuneport.errors import DeviceLost, DeviceOutOfMemory
from tuneport.runtime.batch import EncodedInput
from tuneport.runtime.device_errors import classify, load_error, reason_of
from tuneport.runtime.loading import open_runner
from tuneport.runtime.runner import EncoderRunner, run_halved
from tuneport.schema.artifact import Manifest

TEXTS = [text for text, _ in zip(random_texts(7), range(9), strict=False)]


@pytest.fixture
def runner(tiny_artifact: Path, manifest: Manifest) -> EncoderRunner:
    runner = open_runner(tiny_artifact, manifest, manifest.variant("fp32"))
    assert isinstance(runner, EncoderRunner)
    return runner


def rows_of(runner: EncoderRunner) -> list[EncodedInput]:
    return [windows[0] for windows in runner.task.encode(TEXTS)]


@pytest.mark.parametrize("name", MEMORY)
def test_texts_that_mean_too_little_memory(name: str) -> None:
    assert classify(RuntimeError(MEMORY[name])) == "memory"


@pytest.mark.parametrize("name", LOST)
def test_texts_that_mean_a_lost_device(name: str) -> None:
    assert classify(RuntimeError(LOST[name])) == "lost"


@pytest.mark.parametrize("name", NEITHER)
def test_other_errors_are_not_the_device_s(name: str) -> None:
    assert classify(RuntimeError(NEITHER[name])) is None


def test_python_s_own_memory_error_counts() -> None:
    assert classify(MemoryError()) == "memory"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("illegal access", "CUDA failure 700: an illegal memory access was encountered"),
        ("cublas", "CUBLAS failure 13: CUBLAS_STATUS_EXECUTION_FAILED"),
        ("tensorrt", "execution context enqueue failed."),
    ],
)
def test_the_reason_names_the_failure_and_no_host(name: str, reason: str) -> None:
    assert reason_of(RuntimeError(LOST[name])) == reason


@pytest.mark.parametrize(
    ("text", "remedy"),
    [(ARENA_FULL, "free memory on the device"), (LOST["no device"], "nvidia-smi"), ("bad graph", "export the")],
)
def test_a_graph_that_cannot_be_opened_has_the_remedy_for_its_cause(text: str, remedy: str) -> None:
    assert remedy in load_error("onnxruntime", Path("model.onnx"), RuntimeError(text)).remedy


@pytest.mark.parametrize("largest", [1, 2, 4, 8, 9])
def test_a_batch_that_is_too_large_is_halved_and_has_the_same_outputs(runner: EncoderRunner, largest: int) -> None:
    rows = rows_of(runner)
    expected = [outputs["logits"] for outputs in runner.run_batch(rows)]
    sizes = fail_above(runner, largest, ARENA_FULL)
    halved: list[int] = []
    runner.on_halved = lambda: halved.append(1)
    for outputs, logits in zip(runner.run_batch(rows), expected, strict=True):
        np.testing.assert_allclose(outputs["logits"], logits, atol=1e-5)
    assert len(halved) == sum(size > largest for size in sizes)
    assert sum(size for size in sizes if size <= largest) == len(rows)


def test_a_row_that_does_not_fit_is_named_by_its_length(runner: EncoderRunner) -> None:
    fail_above(runner, 0, ARENA_FULL)
    rows = rows_of(runner)[:2]
    with pytest.raises(DeviceOutOfMemory, match=f"one input of {len(rows[0])} tokens") as caught:
        runner.run_batch(rows)
    assert str(caught.value.__cause__) == ARENA_FULL


def test_nothing_is_tried_again_on_a_lost_device(runner: EncoderRunner) -> None:
    sizes = fail_above(runner, 0, LOST["illegal access"])
    with pytest.raises(DeviceLost, match="CUDA failure 700"):
        runner.run_batch(rows_of(runner))
    assert sizes == [len(TEXTS)]


def test_other_errors_pass_as_they_are(runner: EncoderRunner) -> None:
    sizes = fail_above(runner, 0, NEITHER["wrong rank"])
    with pytest.raises(RuntimeError, match="Invalid rank"):
        runner.run_batch(rows_of(runner))
    assert sizes == [len(TEXTS)]


def test_what_has_been_streamed_is_not_generated_again(runner: EncoderRunner) -> None:
    calls: list[int] = []

    def run(rows: object) -> list[dict[str, np.ndarray]]:
        calls.append(1)
        raise RuntimeError(ARENA_FULL)

    with pytest.raises(DeviceOutOfMemory):
        run_halved(run, rows_of(runner), lambda: None, repeatable=False)
    assert len(calls) == 1
