"""Too little memory: smaller batches with the same result, errors where that cannot be, and failed devices."""

import functools
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import BertForSequenceClassification

from tuneport.errors import EngineError, TuneportError
from tuneport.schema.run import Run
from tuneport.stages.finetune.config import FinetuneConfig
from tuneport.stages.finetune.memory import with_smaller_batch
from tuneport.stages.finetune.search.search import search
from tuneport.stages.finetune.search.space import read_space
from tuneport.stages.finetune.train import finetune

Settings = Callable[..., FinetuneConfig]
OUT_OF_MEMORY = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has 1.00 GiB free.")


@contextmanager
def memory_for(rows: int, *, after: int = 0, error: Exception = OUT_OF_MEMORY) -> Iterator[list[int]]:
    """Fail as a device with memory for `rows` in a batch, after `after` training batches; yields the sizes trained."""
    real, sizes = BertForSequenceClassification.forward, []
    trained = 0

    def forward(model: Any, *positional: Any, **named: Any) -> Any:
        nonlocal trained
        size = len(named["input_ids"])
        trained += model.training
        if size > rows and trained > after:
            raise error
        if model.training:
            sizes.append(size)
        return real(model, *positional, **named)

    with pytest.MonkeyPatch.context() as patch:
        # With the signature of the real one, from which the Trainer learns the model's inputs.
        patch.setattr(BertForSequenceClassification, "forward", functools.wraps(real)(forward))
        yield sizes


def _weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "checkpoint" / "model.safetensors")


def test_a_batch_that_does_not_fit_is_halved_and_the_result_is_that_of_the_smaller_one(
    settings: Settings, tmp_path: Path
) -> None:
    """With dropout, evaluations of 32 rows that do not fit either, and two halvings."""
    config = settings(max_steps=9, eval_strategy="epoch", dropout=0.2)
    assert config.per_device_train_batch_size == 8
    said: list[str] = []
    with memory_for(2) as sizes:
        run = finetune(config, tmp_path / "halved", warn=said.append)
    small = config.model_copy(
        update={
            "per_device_train_batch_size": 2, "gradient_accumulation_steps": 4, "per_device_eval_batch_size": 2,
        }
    )  # fmt: skip
    expected = finetune(small, tmp_path / "small")
    assert len(sizes) == 9 * 4
    assert run.metrics == expected.metrics
    halved, configured = _weights(tmp_path / "halved"), _weights(tmp_path / "small")
    assert all(torch.equal(halved[name], configured[name]) for name in configured)
    assert (run.training.per_device_train_batch_size, run.training.gradient_accumulation_steps) == (2, 4)
    assert run.config["per_device_train_batch_size"] == 8
    assert said == list(run.warnings)
    assert said[0] == (
        "too little memory for 8 rows at step 1 (out of memory. Tried to allocate 2.00 GiB. GPU 0 has 1.00 GiB free.): "
        "training begins again from the beginning, with 4 rows x 2 batches a step instead of 8 x 1"
    )
    assert "with 2 rows x 4 batches a step instead of 4 x 2" in said[1]
    evaluations = [warning for warning in said if "to evaluate" in warning]
    assert [warning.split()[5] for warning in evaluations[:4]] == ["32", "16", "8", "4"]
    assert Run.model_validate(json.loads((tmp_path / "halved" / "run.json").read_text())) == run
    assert "begins again from the beginning" in (tmp_path / "halved" / "report.html").read_text()


def test_training_goes_on_from_the_last_checkpoint(settings: Settings, tmp_path: Path) -> None:
    """Without dropout, so that batches of eight and of four have the same gradients within rounding."""
    config = settings(
        max_steps=9, save_strategy="steps", save_steps=2, dropout=0.0, bf16=False, optim="sgd", learning_rate=0.05
    )
    whole = finetune(config, tmp_path / "whole")
    with memory_for(4, after=5) as sizes:
        run = finetune(config, tmp_path / "halved")
    assert sizes == [8] * 5 + [4] * 2 * 5  # steps 1 to 5, then 5 to 9
    assert "at step 6" in run.warnings[0]
    assert "from the checkpoint checkpoint-4, with 4 rows x 2" in run.warnings[0]
    assert run.metrics["test"]["loss"] == pytest.approx(whole.metrics["test"]["loss"], rel=1e-5)
    halved, expected = _weights(tmp_path / "halved"), _weights(tmp_path / "whole")
    assert all(torch.allclose(halved[name], expected[name], atol=1e-6) for name in expected)


@pytest.mark.parametrize("rows", [pytest.param(4, marks=pytest.mark.slow), 8])
def test_a_halved_run_resumes_with_the_batch_of_the_settings(settings: Settings, tmp_path: Path, rows: int) -> None:
    """And halves it again where the memory is still too small: the rows of a step are those of the settings."""
    config = settings(max_steps=6, save_strategy="steps", save_steps=2, dropout=0.0, bf16=False)

    def stop(self: Any, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == 5:
            raise KeyboardInterrupt

    with memory_for(4), pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):  # noqa: PT012
        patch.setattr("tuneport.stages.finetune.setup.StopOnDivergence.on_step_end", stop)
        finetune(config, tmp_path / "run")
    with memory_for(rows) as sizes:
        run = finetune(config, tmp_path / "run", resume=True)
    assert sizes == ([4] * 2 * 2 if rows == 4 else [8] * 2)
    assert any("training begins again" in warning for warning in run.warnings) == (rows == 4)


def test_one_row_that_does_not_fit_is_an_error(settings: Settings, tmp_path: Path) -> None:
    with memory_for(0), pytest.raises(TuneportError, match=r"too little memory to train on one row .*lower max_length"):
        finetune(settings(), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_search_goes_on_with_smaller_batches(settings: Settings, tmp_path: Path) -> None:
    space = tmp_path / "space.toml"
    space.write_text("learning_rate = {choices = [1e-3]}")
    scores = []
    for rows in (4, 100):
        with memory_for(rows):
            config = settings(dropout=0.0, bf16=False, metric_for_best_model="loss")
            scores.append(search(config, read_space(space), tmp_path / str(rows), trials=1)["loss"])
    assert scores[0] == pytest.approx(scores[1], rel=1e-5)


@pytest.mark.parametrize(("size", "smaller"), [(8, (4, 6)), (9, (3, 9)), (7, (1, 21)), (2, (1, 6))])
def test_steps_keep_their_rows_also_with_odd_batches(settings: Settings, size: int, smaller: tuple[int, int]) -> None:
    config = with_smaller_batch(
        settings(per_device_train_batch_size=size, gradient_accumulation_steps=3), "out of memory", processes=1
    )
    assert (config.per_device_train_batch_size, config.gradient_accumulation_steps) == smaller
    assert smaller[0] * smaller[1] == size * 3


def test_several_processes_are_told_the_batch_that_has_the_same_steps(settings: Settings) -> None:
    with pytest.raises(TuneportError, match=r"8 rows \(x\); set per_device_train_batch_size = 4, gradient_acc.* = 2"):
        with_smaller_batch(settings(), "x", processes=2)


def test_a_device_that_fails_is_an_error_with_its_reason(settings: Settings, tmp_path: Path) -> None:
    lost = RuntimeError("CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be reported")
    with memory_for(4, error=lost), pytest.raises(EngineError, match=r"the device failed .an illegal memory access"):
        finetune(settings(), tmp_path / "run")


def test_other_errors_stay_as_they_are(settings: Settings, tmp_path: Path) -> None:
    with memory_for(4, error=RuntimeError("shapes cannot be multiplied")), pytest.raises(RuntimeError, match="shapes"):
        finetune(settings(), tmp_path / "run")
