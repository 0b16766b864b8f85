"""What used to fail in the midst of training, or to be ignored, is refused in one line before any."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from kit.data import write_splits
from kit.encoders import MAX_LENGTH, tiny_encoder
from kit.texts import random_texts
from transformers import GPT2Config, T5Config

from tuneport.errors import CheckpointError, DataError, TuneportError
from tuneport.modeling.positions import declared_positions, position_limit
from tuneport.stages.finetune.applicability import ANY_VALUE, dependencies
from tuneport.stages.finetune.config import FinetuneConfig, load_config
from tuneport.stages.finetune.setup import load_model, make_trainer, prepare
from tuneport.tasks import all_tasks

Settings = Callable[..., FinetuneConfig]
TEXTS = random_texts(3)
ROWS: list[dict[str, Any]] = [{"text": next(TEXTS), "label": i % 2} for i in range(20)]
POSITIONS = {"bert": MAX_LENGTH + 2, "roberta": MAX_LENGTH + 1, "deberta-v2": MAX_LENGTH + 2, "xlnet": None}


def _data(folder: Path, train: list[Any], validation: list[Any]) -> str:
    return str(write_splits(folder, train=train, validation=validation))


@pytest.mark.parametrize(
    ("column", "lacks"), [("label", "validation"), ("text_pair", "validation"), ("text_pair", "train")]
)
def test_splits_with_different_columns_are_refused(settings: Settings, tmp_path: Path, column: str, lacks: str) -> None:
    whole = [{**row, "text_pair": "film"} for row in ROWS]
    parts = {"train": whole, "validation": whole}
    parts[lacks] = [{name: value for name, value in row.items() if name != column} for row in whole]
    has = "validation" if lacks == "train" else "train"
    with pytest.raises(DataError) as error:
        prepare(settings(data=_data(tmp_path, **parts)))
    assert str(error.value).startswith(f"{has}.jsonl has a column {column} and {lacks}.jsonl has none; ")


def test_no_label_in_any_row_is_refused(settings: Settings, tmp_path: Path) -> None:
    rows = [{"text": row["text"], "labels": []} for row in ROWS]
    with pytest.raises(DataError, match=r"train\.jsonl has no label in any row; give at least two classes"):
        prepare(settings(data=_data(tmp_path, rows, rows)))


@pytest.mark.parametrize(("family", "limit"), POSITIONS.items())
def test_an_input_beyond_the_positions_is_refused(
    settings: Settings, tmp_path: Path, family: str, limit: int | None
) -> None:
    base = str(tiny_encoder(tmp_path / "base", family))
    length = limit or 1000
    model = load_model(prepare(settings(model=base, max_length=length)))
    assert position_limit(model.config, model) == limit
    assert position_limit(model.config) == limit
    ids = torch.full((1, length), 7)
    assert torch.isfinite(model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits).all()
    if limit is not None:
        longer = settings(model=base, max_length=limit + 1)
        with pytest.raises(CheckpointError, match=f"max_length is {limit + 1} and .* has {limit} positions"):
            load_model(prepare(longer))
        with pytest.raises(CheckpointError, match=f"has {limit} positions"):
            load_model(prepare(longer.model_copy(update={"pooling": "mean"})))


def test_relative_positions_are_no_limit_but_may_have_a_declared_length() -> None:
    t5, gpt2 = T5Config(n_positions=512), GPT2Config(n_positions=64)
    assert (position_limit(t5), declared_positions(t5)) == (None, 512)
    assert (position_limit(gpt2), declared_positions(gpt2)) == (64, 64)
    assert declared_positions(T5Config()) is None


def test_a_prefix_takes_positions(settings: Settings, tmp_path: Path) -> None:
    base = str(tiny_encoder(tmp_path / "base"))
    with pytest.raises(CheckpointError, match=r"max_length \+ num_virtual_tokens is 76 .* has 66 positions"):
        load_model(prepare(settings(model=base, max_length=60, strategy="prefix")))


def test_a_folder_without_a_model_is_refused(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=f"{tmp_path} has no config.json"):
        prepare(settings(model=str(tmp_path)))
    for name in ("config.json", "adapter_config.json"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(CheckpointError, match="has an adapter of peft, without its model"):
        prepare(settings(model=str(tmp_path)))


def test_a_file_that_is_no_model_is_not_sought_on_the_hub(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="file is a file, and a model is a folder"):
        prepare(settings(model=str(tmp_path / "file")))


@pytest.mark.parametrize("task", ["token-classification", "question-answering"])
def test_tasks_of_positions_check_them_too(settings: Settings, tmp_path: Path, task: str) -> None:
    base = tiny_encoder(tmp_path / "base")
    rows = {
        "token-classification": {"tokens": ["anna", "met", "ben"], "tags": ["B-PER", "O", "B-PER"]},
        "question-answering": {
            "context": "anna met ben", "question": "who met ben ?", "answers": {"text": ["anna"], "answer_start": [0]},
        },
    }  # fmt: skip
    data = _data(tmp_path / "data", [rows[task]] * 4, [rows[task]] * 2)
    with pytest.raises(CheckpointError, match=r"max_length is 67 and .* has 66 positions; lower max_length"):
        load_model(prepare(settings(task=task, model=str(base), data=data, max_length=67)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": -1}, "seed = -1: input should be greater than or equal to 0"),
        ({"seed": 99999999999}, "seed = 99999999999: input should be less than 4294967296"),
        ({"max_steps": 0}, "max_steps = 0 would train nothing"),
        ({"max_steps": -7}, "max_steps = -7: input should be greater than or equal to -1"),
        ({"num_train_epochs": float("inf")}, "num_train_epochs = inf: input should be a finite number"),
        ({"learning_rate": float("inf")}, "learning_rate = inf: input should be a finite number"),
        ({"fp16": True, "bf16": True}, "fp16 and bf16 exclude each other"),
        (
            {"load_best_model_at_end": True, "eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 3},
            "save_steps = 500 must be a multiple of the steps between evaluations, 3",
        ),
        ({"strategy": "prefix", "gradient_checkpointing": True}, "leave out gradient_checkpointing"),
        ({"strategy": "prefix", "pooling": "mean"}, "leave out pooling"),
        ({"num_beams": 4}, "text-classification has no use for num_beams = 4; leave num_beams out (it applies to task"),
        ({"num_last_layers": 1}, "strategy = full has no use for num_last_layers = 1; leave num_last_layers out"),
        ({"strategy": "ia3", "lora_r": 4}, "strategy = ia3 has no use for lora_r = 4"),
        ({"synonyms": "s.json"}, "synonyms = 's.json' has no use without augment_synonyms; leave synonyms out, or set"),
        ({"rehearsal_ratio": 0.5}, "rehearsal_ratio = 0.5 has no use without rehearsal_data"),
        ({"pseudo_label_threshold": 0.5}, "pseudo_label_threshold = 0.5 has no use without pseudo_label_data"),
        (
            {"lr_scheduler_type": "constant", "warmup_ratio": 0.2},
            "lr_scheduler_type = constant has no use for warmup_r",
        ),
        ({"eval_steps": 5}, "eval_strategy = no has no use for eval_steps = 5"),
        ({"save_steps": 5}, "save_strategy = no has no use for save_steps = 5"),
        ({"momentum": 0.5}, "optim = adamw_torch has no use for momentum = 0.5"),
        ({"task": "regression", "class_weights": "balanced"}, "regression has no use for class_weights = 'balanced'"),
        ({"task": "regression", "label_smoothing_factor": 0.1}, "regression has no use for label_smoothing_factor"),
        ({"task": "automatic-speech-recognition", "label_smoothing_factor": 0.1}, "has no use for label_smoothing"),
        ({"task": "translation", "pooling": "mean"}, "translation has no use for pooling = 'mean'"),
        ({"task": "text-generation", "class_weights": "balanced"}, "text-generation has no use for class_weights"),
    ],
)
def test_an_invalid_or_unused_setting_is_refused(settings: Settings, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(TuneportError) as error:
        settings(**changes)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_no_warm_up_is_true_under_every_schedule(settings: Settings) -> None:
    assert settings(lr_scheduler_type="constant", warmup_ratio=0.0).warmup_ratio == 0


def test_tasks_refuse_unused_settings_that_were_not_loaded(settings: Settings) -> None:
    with pytest.raises(TuneportError, match="text-classification has no use for doc_stride = 5"):
        prepare(settings().model_copy(update={"doc_stride": 5}))


def test_every_setting_with_dependencies_is_a_setting() -> None:
    fields = FinetuneConfig.model_fields
    for name, (decides, values) in dependencies().items():
        assert name in fields
        if values == ANY_VALUE:
            assert not fields[decides].default
            continue
        assert set(values) < set(all_tasks() if decides == "task" else get_args(fields[decides].annotation))


@pytest.mark.parametrize(
    ("text", "values"),
    [("query", ("query",)), ("query, value", ("query", "value")), ('["query"]', ("query",)), ("[]", ())],
)
def test_a_list_may_be_written_with_commas(text: str, values: tuple[str, ...]) -> None:
    flags = {"task": "regression", "model": "m", "data": "d", "strategy": "lora"}
    assert load_config(settings=[f"target_modules={text}"], flags=flags).target_modules == values


def test_trackers_may_be_written_with_commas() -> None:
    flags = {"task": "regression", "model": "m", "data": "d"}
    assert load_config(settings=["report_to=tensorboard"], flags=flags).report_to == ("tensorboard",)
    assert load_config(settings=["report_to=tensorboard,mlflow"], flags=flags).report_to == ("tensorboard", "mlflow")
    assert load_config(settings=["report_to=none"], flags=flags).report_to == ()
    with pytest.raises(TuneportError, match="report_to"):
        load_config(settings=["report_to=paper"], flags=flags)


@pytest.mark.parametrize("smoothing", [0.0, 0.4])
def test_several_labels_are_smoothed(settings: Settings, tmp_path: Path, smoothing: float) -> None:
    rows = [{"text": row["text"], "labels": ["a"] if row["label"] else ["a", "b"]} for row in ROWS]
    data = _data(tmp_path, rows, rows)
    prepared = prepare(settings(data=data, label_smoothing_factor=smoothing, dropout=0.0, bf16=False))
    trainer = make_trainer(prepared, tmp_path, load_model(prepared))
    batch = next(iter(trainer.get_train_dataloader()))
    logits = trainer.model(**{name: value for name, value in batch.items() if name != "labels"}).logits
    targets = batch["labels"] * (1 - smoothing) + smoothing / 2
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets)
    assert trainer.compute_loss(trainer.model, dict(batch)).item() == pytest.approx(expected.item(), rel=1e-5)
