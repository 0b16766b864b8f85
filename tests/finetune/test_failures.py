"""What cannot end well is refused before training, in words, and leaves nothing; what was interrupted resumes."""

import errno
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, Features, Value
from kit.artifacts import change_byte
from kit.data import write_rows, write_splits
from transformers import AutoTokenizer

from tuneport.errors import CheckpointError, DataError, TuneportError
from tuneport.stages.finetune.average import average
from tuneport.stages.finetune.config import FinetuneConfig
from tuneport.stages.finetune.resume import newest_checkpoint
from tuneport.stages.finetune.setup import make_trainer, prepare
from tuneport.stages.finetune.train import finetune

Settings = Callable[..., FinetuneConfig]
ROWS = [{"text": f"{word} {i}", "label": word} for i in range(12) for word in ("film", "vote")]


@pytest.fixture
def no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a test fail that comes as far as training."""

    def train(*_: Any, **__: Any) -> None:
        raise AssertionError("training began")

    monkeypatch.setattr("tuneport.stages.finetune.trainer.TuneportTrainer.train", train)


def test_a_run_killed_while_saving_resumes_from_the_checkpoint_before(settings: Settings, tmp_path: Path) -> None:
    config = settings(max_steps=8, save_strategy="steps", save_steps=4)
    whole = finetune(config, tmp_path / "whole")
    interrupted = _interrupted(config, tmp_path / "run", at=4)
    for damage in ("only config.json", "no state", "half a state"):
        out = Path(shutil.copytree(interrupted, tmp_path / damage))
        _leave_a_part(out, damage)
        warnings: list[str] = []
        resumed = finetune(config, out, resume=True, warn=warnings.append)
        assert resumed.metrics == whole.metrics, damage
        assert "checkpoint-8: incomplete or changed since; training continues from checkpoint-4" in warnings, damage


def _leave_a_part(out: Path, damage: str) -> None:
    """Leave of a second checkpoint what a run leaves that is killed while it saves."""
    good, bad = out / "trainer" / "checkpoint-4", out / "trainer" / "checkpoint-8"
    shutil.copytree(good, bad)
    (bad / "trainer_state.json").write_text('{"epoch": 1.0, "glo' if damage == "half a state" else "{}")
    if damage != "half a state":
        (bad / "trainer_state.json").unlink()
    for file in bad.iterdir() if damage == "only config.json" else ():
        if file.name != "config.json":
            file.unlink()


def test_a_damaged_checkpoint_is_not_resumed_from(settings: Settings, tmp_path: Path) -> None:
    """A file that was cut would be a traceback of torch, and a bit that was flipped another result."""
    out = _interrupted(settings(max_steps=8, save_strategy="steps", save_steps=4), tmp_path / "run", at=4)
    good, bad = out / "trainer" / "checkpoint-4", out / "trainer" / "checkpoint-8"
    for name in ("model.safetensors", "optimizer.pt", "rng_state.pth", "trainer_state.json"):
        for damage in (change_byte, lambda file: os.truncate(file, file.stat().st_size // 2), os.unlink):
            shutil.copytree(good, bad)
            assert newest_checkpoint(out) == bad
            damage(bad / name)
            assert newest_checkpoint(out) == good
            shutil.rmtree(bad)


def test_a_checkpoint_that_cannot_be_read_stays(settings: Settings, tmp_path: Path) -> None:
    changes = {"max_steps": 8, "save_strategy": "steps", "save_steps": 4}
    out = _interrupted(settings(**changes), tmp_path / "run", at=4)
    optimizer = out / "trainer" / "checkpoint-4" / "optimizer.pt"
    optimizer.unlink()
    optimizer.mkdir()
    with pytest.raises(TuneportError, match="checkpoint-4 cannot be read"):
        finetune(settings(**changes), out, resume=True)
    assert optimizer.is_dir()


def _interrupted(config: FinetuneConfig, out: Path, at: int) -> Path:
    """Leave what a run that was killed after its checkpoint of step `at` leaves."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tuneport.stages.finetune.setup.StopOnDivergence.on_step_end", _kill_at(at + 1))
        with pytest.raises(KeyboardInterrupt):
            finetune(config, out)
    return out


def _kill_at(step: int) -> Callable[..., None]:
    def on_step_end(self: Any, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == step:
            raise KeyboardInterrupt

    return on_step_end


def test_training_that_diverges_is_an_error_and_leaves_nothing(settings: Settings, tmp_path: Path) -> None:
    options = {"optim": "sgd", "learning_rate": 1e25, "max_grad_norm": 0, "max_steps": 6, "warmup_ratio": 0}
    with pytest.raises(TuneportError, match=r"diverged .*; lower learning_rate"):
        finetune(settings(**options), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(TuneportError, match="diverged by step 2"):
        finetune(settings(**options, logging_steps=2), tmp_path / "run")


@pytest.mark.usefixtures("no_training")
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"metric_for_best_model": "acc"}, "'acc' is no metric.*f1_macro"),
        ({"metric_for_best_model": "f1_micro"}, "no metric of this task and data"),
        ({"adversarial_epsilon": 0.1, "strategy": "head"}, "strategy = head freezes"),
        ({"adversarial_epsilon": 0.1, "strategy": "gradual"}, "strategy = gradual freezes"),
        ({"adversarial_epsilon": 0.1, "strategy": "last_layers", "num_last_layers": 1}, "they are frozen"),
        ({"strategy": "last_layers", "num_last_layers": 9}, "num_last_layers is 9, and the model has 2 layers"),
        ({"model": "./no/such/model"}, "there is no folder ./no/such/model"),
        ({"model": "no-such-model"}, "no folder no-such-model, and no hub model"),
    ],
)
def test_settings_that_cannot_work_are_refused_before_training(
    settings: Settings, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "settings.json").write_text("{}")
    with pytest.raises(TuneportError, match=words):
        finetune(settings(**changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(TuneportError, match=words):
        finetune(settings(**changes), tmp_path / "old", overwrite=True)
    assert (tmp_path / "old" / "settings.json").is_file()


@pytest.mark.usefixtures("no_training")
def test_a_tokenizer_that_truncates_on_the_left_is_refused_as_the_export_would(
    settings: Settings, tmp_path: Path
) -> None:
    """Serving truncates on the right."""
    left = tmp_path / "left"
    shutil.copytree(settings().model, left)
    AutoTokenizer.from_pretrained(left, truncation_side="left").save_pretrained(left)
    with pytest.raises(CheckpointError, match=r"truncates on the left.*truncation_side = right"):
        finetune(settings(model=str(left)), tmp_path / "run")


def test_a_failure_before_the_first_checkpoint_leaves_nothing(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("a kernel failed")

    monkeypatch.setattr("tuneport.stages.finetune.trainer.TuneportTrainer.train", fail)
    with pytest.raises(RuntimeError, match="a kernel failed"):
        finetune(settings(), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_less_of_an_error_is_better(settings: Settings, tmp_path: Path) -> None:
    rows = [{"text": f"film {i}", "score": i / 2} for i in range(20)]
    data = write_splits(tmp_path / "data", train=rows, validation=rows)
    prepared = prepare(settings(task="regression", data=str(data), metric_for_best_model="mse"))
    trainer = make_trainer(prepared, tmp_path / "run", prepared.task.load_model(prepared.source))
    assert trainer.args.greater_is_better is False


@pytest.mark.parametrize("score", [10**400, [10**400, 1]], ids=["one", "several"])
def test_a_score_that_no_type_holds_is_one_line(settings: Settings, tmp_path: Path, score: Any) -> None:
    rows = [{"text": f"film {i}", "score": [i, 1] if isinstance(score, list) else i} for i in range(20)]
    data = write_splits(tmp_path / "data", train=[*rows, {"text": "film", "score": score}], validation=rows)
    with pytest.raises(DataError, match=r"train\.jsonl row 21: score is \[?'1000.*number.* expected") as error:
        prepare(settings(task="regression", data=str(data)))
    assert "\n" not in str(error.value)


@pytest.mark.usefixtures("no_training")
def test_unlabelled_data_is_checked_before_any_training(settings: Settings, tmp_path: Path) -> None:
    bad = write_rows(tmp_path / "bad.jsonl", [{"text": "a"}, {"text": " "}, {"text": None}])
    for source, words in (
        (str(tmp_path / "none.jsonl"), "does not exist"),
        (str(bad), r"bad\.jsonl row 2: text is an empty string, bad\.jsonl row 3: text is None"),
        (str(write_rows(tmp_path / "other.jsonl", [{"texts": "a"}])), "no column"),
    ):
        with pytest.raises(TuneportError, match=words):
            finetune(settings(pseudo_label_data=source), tmp_path / "run")
        assert not (tmp_path / "run").exists()
    several = write_splits(tmp_path / "s", train=[{"text": r["text"], "labels": [r["label"]]} for r in ROWS])
    with pytest.raises(TuneportError, match="one label a row"):
        finetune(settings(data=str(several), pseudo_label_data=str(bad)), tmp_path / "run")


@pytest.mark.parametrize("kind", ["mixed", "large_string", "numbers"])
def test_labels_of_any_type_can_be_pseudo_labels(settings: Settings, tmp_path: Path, kind: str) -> None:
    data = tmp_path / "data"
    data.mkdir()
    if kind == "large_string":
        types = Features({"text": Value("large_string"), "label": Value("large_string")})
        for name in ("train", "validation"):
            Dataset.from_list(ROWS, features=types).to_parquet(data / f"{name}.parquet")
    else:
        names = {"film": 1, "vote": "two" if kind == "mixed" else 2}
        numbered = [{**row, "label": names[row["label"]]} for row in ROWS]
        write_splits(data, train=numbered, validation=numbered)
    few = write_rows(tmp_path / "few.jsonl", [{"text": f"film {i}"} for i in range(5)])
    run = finetune(
        settings(data=str(data), pseudo_label_data=str(few), pseudo_label_threshold=0.5, max_steps=2), tmp_path / "run"
    )
    assert run.train_rows == len(ROWS) + 5


def test_the_out_folder_may_not_lie_below_a_file(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TuneportError, match=r"file/run/deep cannot be created: .*file is a file"):
        finetune(settings(), tmp_path / "file" / "run" / "deep")


def refuse(*_: Any, **__: Any) -> None:
    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


@pytest.mark.usefixtures("no_training")
@pytest.mark.parametrize(
    ("resume", "words"),
    [
        (False, r"run cannot be replaced \(Permission denied\); choose another --out"),
        (True, r"run cannot be written \(Permission denied\); make it writable"),
    ],
)
def test_a_run_in_a_folder_that_cannot_be_written_is_refused_at_once_and_kept(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, resume: bool, words: str
) -> None:
    out = old_run(tmp_path)
    monkeypatch.setattr(tempfile, "mkdtemp", refuse)
    monkeypatch.setattr("tuneport.stages.finetune.train.prepare", refuse)
    with pytest.raises(TuneportError, match=words):
        finetune(settings(), out, overwrite=not resume, resume=resume)
    assert sorted(file.name for file in out.iterdir()) == ["model", "settings.json"]


@pytest.mark.usefixtures("no_training")
def test_a_run_that_cannot_be_moved_is_kept(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, rename = old_run(tmp_path), os.rename
    monkeypatch.setattr(os, "rename", lambda old, new: refuse() if Path(old) == out else rename(old, new))
    with pytest.raises(TuneportError, match=r"run cannot be written \(Permission denied\); choose another --out"):
        finetune(settings(), out, overwrite=True)
    assert sorted(file.name for file in out.iterdir()) == ["model", "settings.json"]
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def old_run(folder: Path) -> Path:
    out = folder / "run"
    out.mkdir()
    (out / "settings.json").write_text("{}")
    (out / "model").write_text("of the run")
    return out


@pytest.mark.usefixtures("no_training")
def test_data_in_the_folder_that_would_be_removed_is_refused(settings: Settings, tmp_path: Path) -> None:
    out = tmp_path / "run"
    out.mkdir()
    (out / "settings.json").write_text("{}")
    data = write_rows(out / "mine.jsonl", ROWS)
    for changes in ({"data": str(data)}, {"pseudo_label_data": str(data)}):
        with pytest.raises(
            TuneportError, match=r"mine\.jsonl lies in .*run, which is written anew; choose another --out"
        ):
            finetune(settings(**changes), out, overwrite=True)
    assert data.is_file()


def test_warnings_come_before_training(settings: Settings, tmp_path: Path) -> None:
    train = [*ROWS, {"text": "film 99", "label": "film "}, {"text": "film 99", "label": "film "}]
    flipped = {"text": "vote 3", "label": "film"}
    data = write_splits(tmp_path / "data", train=train, validation=[*ROWS[:2], flipped])
    warnings: list[str] = []

    def stop(warning: str) -> None:
        warnings.append(warning)
        assert not (tmp_path / "run").exists()

    run = finetune(settings(data=str(data), max_steps=1), tmp_path / "run", warn=stop)
    assert warnings == list(run.warnings)
    assert warnings == [
        "2 of train's 26 rows are also in validation.jsonl",
        "1 of train's 26 rows are also in validation.jsonl with another label",
        "train.jsonl has ['film', 'film '], which differ only in spaces or case",
    ]


def test_settings_that_the_trainer_refuses_are_one_line_and_cost_no_older_run(
    settings: Settings, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    out.mkdir()
    (out / "settings.json").write_text("{}")
    with pytest.raises(TuneportError, match="the Trainer refuses these settings"):
        finetune(settings().model_copy(update={"eval_strategy": "never"}), out, overwrite=True)
    assert (out / "settings.json").is_file()


def test_numbers_of_json_and_cells_of_csv_are_the_same_labels_in_rehearsal(settings: Settings, tmp_path: Path) -> None:
    rows = [{"text": f"film {i}", "label": i % 2} for i in range(12)]
    data = write_splits(tmp_path / "data", train=rows, validation=rows[:4])
    old = tmp_path / "old.csv"
    old.write_text("text,label\n" + "".join(f"vote {i},{i % 2}\n" for i in range(12)))
    prepared = prepare(settings(data=str(data), rehearsal_data=str(old)))
    assert set(prepared.data.splits["train"]["label"]) == {"0", "1"}
    assert len(prepared.data.splits["train"]) == 15


def test_an_average_is_refused_for_tasks_without_one(tmp_path: Path, settings: Settings) -> None:
    run = finetune(settings(max_steps=1), tmp_path / "a")
    record = run.model_copy(update={"task": "question-answering"}).model_dump_json()
    for name in ("b", "c"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text(record)
    with pytest.raises(TuneportError, match=r"question-answering has no ensemble.*text-classification"):
        average([tmp_path / "b", tmp_path / "c"], tmp_path / "mean")
    with pytest.raises(TuneportError, match="exists"):
        average([tmp_path / "b", tmp_path / "c"], tmp_path / "a")
