"""A run, from its data to its folder: reproducible, resumable, complete, and refused when it cannot be right."""

import base64
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from kit import ROOT
from kit.command import tuneport
from kit.data import read_rows, write_rows, write_splits
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification

from tuneport.errors import CheckpointError, DataError, TuneportError
from tuneport.modeling.identity import hash_checkpoint
from tuneport.schema.run import Run
from tuneport.stages.finetune.average import average
from tuneport.stages.finetune.config import FinetuneConfig
from tuneport.stages.finetune.search.search import search
from tuneport.stages.finetune.search.space import read_space
from tuneport.stages.finetune.setup import load_model, make_trainer, prepare
from tuneport.stages.finetune.train import finetune

Settings = Callable[..., FinetuneConfig]


def _weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "checkpoint" / "model.safetensors")


def _same(left: Path, right: Path) -> bool:
    first, second = _weights(left), _weights(right)
    return all(torch.equal(first[name], second[name]) for name in first)


def test_the_same_seed_gives_the_same_run_and_another_one_does_not(settings: Settings, tmp_path: Path) -> None:
    first = finetune(settings(), tmp_path / "first")
    second = finetune(settings(), tmp_path / "second")
    finetune(settings(seed=7), tmp_path / "third")
    assert first.metrics == second.metrics
    assert first.data.fingerprint == second.data.fingerprint
    assert _same(tmp_path / "first", tmp_path / "second")
    assert not _same(tmp_path / "first", tmp_path / "third")


def test_a_run_does_not_inherit_the_precision_of_the_run_before(settings: Settings, tmp_path: Path) -> None:
    for bf16, precision in ((True, "bf16"), (False, "no")):
        prepared = prepare(settings(bf16=bf16))
        assert make_trainer(prepared, tmp_path, load_model(prepared)).accelerator.mixed_precision == precision


@pytest.mark.usefixtures("_pictures")
def test_a_run_learns_and_its_folder_is_complete(settings: Settings, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run = finetune(
        settings(max_steps=60, learning_rate=3e-3, eval_strategy="steps", eval_steps=20, logging_steps=5), out
    )
    assert run.metrics["test"]["accuracy"] == 1.0
    assert run.metrics["validation"].keys() >= {"accuracy", "f1_macro", "f1_weighted", "matthews", "loss"}
    names = {path.name for path in out.iterdir()}
    assert names == {
        "checkpoint", "run.json", "settings.json", "evaluation.json", "report.html", "curves.png", "confusion.png",
    }  # fmt: skip
    assert Run.model_validate_json((out / "run.json").read_text()) == run
    assert run.checkpoint_sha256 == hash_checkpoint(out / "checkpoint")
    assert run.labels == ("film", "vote")
    assert not list((out / "checkpoint").glob("*.bin"))
    evaluation = json.loads((out / "evaluation.json").read_text())["test"]
    assert evaluation["confusion"] == [[c["support"] if i == j else 0 for j in range(2)]
                                       for i, c in enumerate(evaluation["classes"])]  # fmt: skip
    page = (out / "report.html").read_text()
    assert all(title in page for title in ("Learning curves", "Confusion matrix"))
    pictures = re.findall(r"data:image/png;base64,([^\"]+)", page)
    assert [base64.b64decode(each) for each in pictures] == [
        (out / name).read_bytes() for name in ("curves.png", "confusion.png")
    ]
    assert all(base64.b64decode(each).startswith(b"\x89PNG") for each in pictures)
    AutoModelForSequenceClassification.from_pretrained(out / "checkpoint")


def test_markup_in_a_text_is_text_in_the_report(settings: Settings, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    rows = [{"text": "<script>alert(1)</script> film", "label": label} for label in ("a", "b") * 6]
    for split in ("train", "validation", "test"):
        write_rows(data / f"{split}.jsonl", rows)
    finetune(settings(data=str(data)), tmp_path / "run")
    page = (tmp_path / "run" / "report.html").read_text()
    assert "<script>" not in page
    assert "&lt;script&gt;" in page


@pytest.mark.slow
def test_a_terminated_run_resumes_to_the_result_of_an_unbroken_one(settings: Settings, tmp_path: Path) -> None:
    changes = {"max_steps": 40, "save_strategy": "steps", "save_steps": 3, "dropout": 0.2}
    config = settings(**changes)
    whole = finetune(config, tmp_path / "whole")
    broken = tmp_path / "broken"
    arguments = [f"--set={name}={json.dumps(value)}" for name, value in config.model_dump(exclude_none=True).items()
                 if name not in ("task", "model", "data", "columns", "report_to")]  # fmt: skip
    command = [sys.executable, "-m", "tuneport", "finetune", "--task", config.task, "--model", config.model]
    command += ["--data", config.data, "--out", str(broken), "--set=report_to=[]", *arguments]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while not list(broken.glob("trainer/checkpoint-*/trainer_state.json")) and time.monotonic() < deadline:
        assert process.poll() is None, process.stderr and process.stderr.read()
        time.sleep(0.005)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) != 0
    process.communicate()
    assert not (broken / "run.json").exists()
    resumed = finetune(config, broken, resume=True)
    assert resumed.metrics == whole.metrics
    assert _same(broken, tmp_path / "whole")


def test_resume_refuses_other_settings_and_finished_runs(settings: Settings, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(TuneportError, match="no unfinished run"):
        finetune(settings(), out, resume=True)
    finetune(settings(), out)
    with pytest.raises(TuneportError, match="finished"):
        finetune(settings(), out, resume=True)
    (out / "run.json").unlink()
    with pytest.raises(TuneportError, match="other settings"):
        finetune(settings(learning_rate=1e-4), out, resume=True)


def test_an_existing_folder_is_refused_and_kept(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(TuneportError, match="mine"):
            finetune(settings(), tmp_path / "mine", overwrite=overwrite)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"


def test_the_best_checkpoint_is_restored(settings: Settings, tmp_path: Path) -> None:
    """A rate that ruins the model late: the last checkpoint is worse than the best one."""
    options = {"max_steps": 40, "eval_strategy": "steps", "eval_steps": 4, "save_strategy": "steps", "save_steps": 4}
    kept = finetune(settings(**options, early_stopping_patience=2, metric_for_best_model="loss"), tmp_path / "run")
    prepared = prepare(settings(**options, load_best_model_at_end=True, metric_for_best_model="loss"))
    trainer = make_trainer(prepared, tmp_path / "trainer", load_model(prepared))
    trainer.train()
    losses = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
    assert trainer.state.best_metric == min(losses)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(min(losses), abs=1e-5)
    assert kept.metrics["validation"]["loss"] <= losses[0]


def test_bad_rows_are_all_named_before_anything_is_written(settings: Settings, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    good = [{"text": "film", "label": "a"}, {"text": "vote", "label": "b"}] * 5
    write_rows(data / "train.jsonl", [*good, {"text": "  ", "label": "a"}, {"text": "film", "label": None}])
    write_rows(data / "validation.jsonl", [*good, {"text": None, "label": "a"}])
    with pytest.raises(DataError) as error:
        finetune(settings(data=str(data)), tmp_path / "run")
    for part in ("train.jsonl row 11", "train.jsonl row 12", "validation.jsonl row 11"):
        assert part in str(error.value)
    assert not (tmp_path / "run").exists()
    write_rows(data / "train.jsonl", good)
    write_rows(data / "validation.jsonl", [*good, {"text": "film", "label": "c"}])
    with pytest.raises(DataError, match=r"validation\.jsonl row 11: label 'c'"):
        finetune(settings(data=str(data)), tmp_path / "run")


def test_rows_in_two_splits_are_counted_in_a_warning(settings: Settings, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    rows = [{"text": f"film {i}", "label": "ab"[i % 2]} for i in range(12)]
    write_rows(data / "train.jsonl", rows)
    write_rows(data / "validation.jsonl", [*rows[:3], {"text": "new", "label": "a"}])
    run = finetune(settings(data=str(data)), tmp_path / "run")
    assert run.warnings == ("3 of train's 12 rows are also in validation.jsonl",)


def test_a_class_with_one_row_is_named_in_a_warning(settings: Settings, tmp_path: Path) -> None:
    rows = [{"text": f"film {i}", "label": "ab"[i % 2]} for i in range(12)]
    data = write_splits(tmp_path / "data", train=[*rows, {"text": "x", "label": "c"}], validation=rows[:2])
    run = finetune(settings(data=str(data)), tmp_path / "run")
    assert run.labels == ("a", "b", "c")
    assert any("train.jsonl has ['c'] only once" in warning for warning in run.warnings)


def test_rehearsed_rows_are_checked_with_the_others(settings: Settings, tmp_path: Path) -> None:
    rows = [{"text": f"{word} {i}", "label": word} for i in range(5) for word in ("film", "vote")]
    old = write_splits(tmp_path / "old", train=[*rows, {"text": "x", "label": "song"}, {"text": "y", "label": "film"}])
    with pytest.raises(DataError, match=r"old \(train\.jsonl\) row 11: label 'song' is not among train's.* correct"):
        prepare(settings(rehearsal_data=str(old)))
    write_rows(old / "train.jsonl", [{"text": " ", "label": "film"}] * 12)
    with pytest.raises(DataError, match=r"old \(train\.jsonl\) row \d+: text is an empty string"):
        prepare(settings(rehearsal_data=str(old)))


def test_multi_label_and_class_weights_and_regression(settings: Settings, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    rows = [
        {"text": t, "labels": ls} for t, ls in (("film music", ["film", "music"]), ("film", ["film"]), ("vote", []))
    ]
    for split in ("train", "validation", "test"):
        write_rows(data / f"{split}.jsonl", rows * 8)
    run = finetune(settings(data=str(data), max_steps=80), tmp_path / "multi")
    assert run.labels == ("film", "music")
    assert run.metrics["test"]["f1_micro"] == 1.0
    scored = [
        {"text": f"{word} a b", "text_pair": "the", "score": [n, -n]} for n, word in enumerate(("film", "vote", "bank"))
    ]
    for split in ("train", "validation", "test"):
        write_rows(data / f"{split}.jsonl", scored * 8)
    run = finetune(settings(task="regression", data=str(data), max_steps=120), tmp_path / "scores")
    assert run.accepts_pairs
    assert run.metrics["test"]["pearson"] > 0.9
    write_rows(data / "test.jsonl", [{**scored[0], "score": [float("nan"), 1]}, {**scored[1], "score": 2}])
    with pytest.raises(DataError):
        finetune(settings(task="regression", data=str(data)), tmp_path / "bad")


def test_balanced_weights_favour_the_rare_class(settings: Settings) -> None:
    prepared = prepare(settings(class_weights="balanced"))
    counts = prepared.task.label_counts
    counts["film"] = 9 * counts["vote"]
    loss = prepared.task.loss()
    assert loss is not None
    logits = {"logits": torch.zeros(1, 2)}
    common, rare = (loss(logits, {"labels": torch.tensor([i])}) for i in range(2))
    assert float(rare / common) == pytest.approx(9.0)


def test_augmented_and_rehearsed_rows_join_train_alone(settings: Settings, tmp_path: Path) -> None:
    old = write_rows(tmp_path / "old.jsonl", [{"text": f"zzz {i}", "label": "film"} for i in range(40)])
    plain, more = (
        prepare(settings()),
        prepare(settings(augment_swap=0.5, rehearsal_data=str(old), rehearsal_ratio=0.25)),
    )
    before, after = plain.data.splits, more.data.splits
    assert len(after["train"]) == 2 * (len(before["train"]) + 12)
    assert after["validation"].to_list() == before["validation"].to_list()
    assert sum(row["text"].startswith("zzz") for row in after["train"].take(60)) == 12
    copies = after["train"].to_list()[60:]
    assert any(copy["text"] != row["text"] for copy, row in zip(copies, after["train"].to_list(), strict=False))
    for copy, row in zip(copies, after["train"].to_list(), strict=False):
        assert sorted(copy["text"].split()) == sorted(row["text"].split())
        assert copy["label"] == row["label"]


def test_pseudo_labels_above_the_threshold_join_train(settings: Settings, tmp_path: Path) -> None:
    rows = [{"text": f"{word} {word}"} for word in ("film", "vote") * 10]
    more = write_rows(tmp_path / "more.jsonl", rows)
    config = settings(max_steps=60, learning_rate=3e-3, pseudo_label_data=str(more))
    run = finetune(config, tmp_path / "run")
    assert run.train_rows > 48
    with pytest.raises(DataError, match="lower pseudo_label_threshold"):
        finetune(config.model_copy(update={"max_steps": 1, "pseudo_label_threshold": 0.999}), tmp_path / "unsure")


def test_averaged_weights_are_the_mean_and_both_averages_are_scored(settings: Settings, tmp_path: Path) -> None:
    for seed in (1, 2):
        finetune(settings(seed=seed, max_steps=60, learning_rate=3e-3), tmp_path / str(seed))
    result = average([tmp_path / "1", tmp_path / "2"], tmp_path / "mean")
    first, second, mean = (_weights(tmp_path / name) for name in ("1", "2", "mean"))
    for name in mean:
        assert torch.allclose(mean[name], (first[name] + second[name]) / 2, atol=1e-7)
    assert result.runs.keys() == {str(tmp_path / "1"), str(tmp_path / "2")}
    assert result.ensemble["test"]["accuracy"] >= 0.9
    run = Run.model_validate_json((tmp_path / "mean" / "run.json").read_text())
    assert run.checkpoint_sha256 == hash_checkpoint(tmp_path / "mean" / "checkpoint")
    assert run.metrics == result.weights
    with pytest.raises(TuneportError, match="are one run, which would count 2 times; name each run once"):
        average([tmp_path / "1", tmp_path / "2" / ".." / "1"], tmp_path / "twice")
    twice = average([tmp_path / "1", tmp_path / "1"], tmp_path / "twice", allow_repeated_runs=True)
    assert twice.weights == next(iter(twice.runs.values()))
    with pytest.raises(TuneportError, match="at least two"):
        average([tmp_path / "1"], tmp_path / "one")
    with pytest.raises(TuneportError, match=r"1 lies in .*, which is written anew"):
        average([tmp_path / "1", tmp_path / "2"], tmp_path / "1", overwrite=True)
    source = Path(run.data.source)
    source.rename(source.with_name("moved"))
    with pytest.raises(DataError, match=r"the data of .*1 cannot be read: .*does not exist; restore it"):
        average([tmp_path / "1", tmp_path / "2"], tmp_path / "damaged")
    source.with_name("moved").rename(source)
    file = tmp_path / "2" / "checkpoint" / "model.safetensors"
    for damage in (lambda: file.write_bytes(b"no weights"), file.unlink):
        damage()
        with pytest.raises(CheckpointError, match=r"2/checkpoint/model.safetensors cannot be read"):
            average([tmp_path / "1", tmp_path / "2"], tmp_path / "damaged")
        assert not (tmp_path / "damaged").exists()


def test_a_search_keeps_its_trials_and_resumes(settings: Settings, tmp_path: Path) -> None:
    space_file = tmp_path / "space.toml"
    space_file.write_text(
        "learning_rate = {low = 1e-6, high = 1e-2, log = true}\nwarmup_ratio = {choices = [0.0, 0.2]}\n"
    )
    space = read_space(space_file)
    out = tmp_path / "search"
    search(settings(), space, out, trials=2)
    before = _trials(out)
    best = search(settings(), space, out, trials=4, resume=True)
    after = _trials(out)
    assert len(before) == 2
    assert len(after) == 4
    assert all(trial in after for trial in before)
    assert best["f1_macro"] == max(trial["f1_macro"] for trial in after)
    assert (out / "trials.png").stat().st_size > 1000
    done = tuneport("finetune", "--config", out / "best.toml", "--out", tmp_path / "best")
    assert done.code == 0, done.err
    space_file.write_text("optim = {choices = ['sgd']}")
    with pytest.raises(TuneportError, match="optim"):
        read_space(space_file)


def _trials(out: Path) -> list[dict[str, float]]:
    return json.loads((out / "trials.json").read_text())  # type: ignore[no-any-return]


def test_one_file_is_split_with_the_seed(settings: Settings, tmp_path: Path, texts_and_labels: Path) -> None:
    file = write_rows(tmp_path / "all.jsonl", read_rows(texts_and_labels / "train.jsonl"))
    data = prepare(settings(data=str(file))).data
    assert {name: len(rows) for name, rows in data.splits.items()} == {"train": 38, "validation": 5, "test": 5}
    run = finetune(settings(data=str(file), max_steps=1, learning_rate=1e-9), tmp_path / "run")
    mistakes = json.loads((tmp_path / "run" / "evaluation.json").read_text())["test"]["mistakes"]
    rows = read_rows(file)
    assert run.metrics["test"]["accuracy"] == pytest.approx(1 - len(mistakes) / 5)
    assert mistakes
    for mistake in mistakes:
        assert (rows[mistake["row"] - 1]["text"], rows[mistake["row"] - 1]["label"]) == (
            mistake["input"],
            mistake["expected"],
        )
    assert prepare(settings(data=str(file))).data.source.fingerprint == data.source.fingerprint
    assert prepare(settings(data=str(file), seed=1)).data.source.fingerprint != data.source.fingerprint
