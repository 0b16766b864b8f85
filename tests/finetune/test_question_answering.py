"""Answers in contexts: windows, targets, the choice among windows, SQuAD's scores, and what is refused."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from kit.data import QUICK, read_splits, write_splits
from kit.encoders import FAMILIES, tiny_encoder
from transformers import AutoModelForQuestionAnswering, AutoTokenizer

from tuneport.errors import DataError, TuneportError
from tuneport.metrics.spans import answer_f1, exact_match, normalize
from tuneport.runtime.spans import MAX_ANSWER_TOKENS, OUTSIDE, Span, best_span
from tuneport.stages.finetune.config import FinetuneConfig, load_config
from tuneport.stages.finetune.tasks.question_answering import Task, token_span
from tuneport.stages.finetune.train import finetune
from tuneport.tasks import task_spec

LONG = "anna lives in paris and works in rome on monday . " * 4 + "ben met carl in oslo , the old city ."
SHORT = "the river was big ."


def _row(context: str, question: str, *answers: str) -> dict[str, Any]:
    return {
        "context": context,
        "question": question,
        "answers": {"text": list(answers), "answer_start": [context.index(answer) for answer in answers]},
    }


ROWS = [
    _row(LONG, "where did ben see carl ?", "oslo", "oslo , the old city"),
    _row(SHORT, "what was big ?", "river"),
    _row(SHORT, "who was big ?"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_splits(tmp_path_factory.mktemp("data"), train=ROWS * 4, validation=ROWS, test=ROWS)


def _config(model: Path, data: Path, **changes: Any) -> FinetuneConfig:
    values = {"task": "question-answering", "model": str(model), "data": str(data), "doc_stride": 8}
    return load_config(flags={**QUICK, **values, **changes})


def _task(model: Path, data: Path, **changes: Any) -> tuple[Task, dict[str, datasets.Dataset]]:
    read = read_splits(data, task_spec("question-answering").columns)
    return Task(read, _config(model, data, **changes)), read.splits


def _encoded(model: Path, data: Path, **changes: Any) -> tuple[Task, datasets.Dataset, datasets.Dataset]:
    task, splits = _task(model, data, **changes)
    rows = splits["validation"]
    return task, rows, task.encode(rows, task.load_processor(str(model)), train=False)


def _outputs(features: datasets.Dataset, **changed: tuple[int, int, float]) -> tuple[Any, Any]:
    """Logits of 5 at each window's targets, padded as Trainer pads; `w3=(start, end, logit)` adds one to window 3."""
    width = max(features["length"])
    logits = np.full((2, len(features), width), -100.0, np.float32)
    for i, window in enumerate(features):
        logits[:, i, : window["length"]] = 0
        logits[0, i, window["start_positions"]] = logits[1, i, window["end_positions"]] = 5
    for name, (start, end, logit) in changed.items():
        logits[0, int(name[1:]), start] = logits[1, int(name[1:]), end] = logit
    return logits[0], logits[1]


@pytest.mark.parametrize("family", ["bert", "roberta", "modernbert", "xlnet"])
def test_windows_hold_the_answer_or_point_to_cls(family: str, folder: Path, tmp_path: Path) -> None:
    base = tiny_encoder(tmp_path, family)
    _, rows, features = _encoded(base, folder, max_length=48)
    cls = AutoTokenizer.from_pretrained(base).cls_token_id
    assert len(features) > len(rows)
    assert max(features["length"]) <= 48
    with_answer = []
    for window in features:
        start, end = window["start_positions"], window["end_positions"]
        assert window["input_ids"][window["cls"]] == cls
        assert window["offset_mapping"][window["cls"]] == [OUTSIDE, OUTSIDE]
        context = rows[window["row"]]["context"]
        if start == window["cls"]:
            assert end == start
        else:
            first, last = window["offset_mapping"][start][0], window["offset_mapping"][end][1]
            with_answer.append((window["row"], context[first:last].strip()))
    assert set(with_answer) == {(0, "oslo"), (1, "river")}
    assert {window["cls"] == window["length"] - 1 for window in features} == {family == "xlnet"}


def test_windows_cover_the_context_and_share_the_stride(bert: Path, folder: Path) -> None:
    _, rows, features = _encoded(bert, folder)
    windows = [[tuple(o) for o in w["offset_mapping"] if o[0] != OUTSIDE] for w in features if w["row"] == 0]
    assert len(windows) > 2
    for before, after in pairwise(windows):
        assert before[-8:] == after[:8]
    assert {o for window in windows for o in window} >= {(0, 4), (len(rows[0]["context"]) - 1, len(rows[0]["context"]))}


@pytest.mark.parametrize("seed", range(5))
def test_the_best_span_is_the_best_of_all(seed: int) -> None:
    chance = np.random.default_rng(seed)
    starts, ends = chance.normal(size=(2, 60)) + np.eye(60)[0] * 9  # the largest logits stand outside the context
    offsets = np.full((60, 2), OUTSIDE)
    offsets[7:55] = [(4 * i, 4 * i + 3) for i in range(48)]
    every = [(starts[i] + ends[j], i, j) for i in range(7, 55) for j in range(i, min(55, i + MAX_ANSWER_TOKENS))]
    score, first, last = max(every)
    found = best_span(starts, ends, offsets)
    assert found.score == pytest.approx(score)
    assert (found.start, found.end) == (offsets[first][0], offsets[last][1])


def test_a_span_is_never_longer_than_an_answer_may_be() -> None:
    starts, ends, offsets = np.zeros(50), np.zeros(50), np.array([(i, i + 1) for i in range(50)])
    starts[0], ends[MAX_ANSWER_TOKENS - 1], ends[MAX_ANSWER_TOKENS] = 5, 4, 5
    assert best_span(starts, ends, offsets) == Span(9.0, 0, MAX_ANSWER_TOKENS)


@pytest.mark.parametrize(
    ("characters", "tokens"),
    [((4, 8), (1, 1)), ((4, 13), (1, 2)), ((5, 7), (1, 1)), ((0, 8), None), ((9, 20), None), ((0, 3), None)],
)
def test_a_window_locates_only_answers_that_it_contains_whole(
    characters: tuple[int, int], tokens: tuple[int, int] | None
) -> None:
    assert token_span([(OUTSIDE, OUTSIDE), (4, 8), (9, 13), (OUTSIDE, OUTSIDE)], *characters) == tokens


def test_answers_are_compared_as_squad_compares_them() -> None:
    assert normalize("The  U.S. Army's, a\tTheatre") == "us armys theatre"
    assert exact_match("the Cat.", ["dog", "cat"]) == 1
    assert exact_match("cats", ["cat"]) == 0
    assert answer_f1("big red river", ["the red river", "x"]) == pytest.approx(0.8)
    assert answer_f1("red red", ["red"]) == pytest.approx(2 / 3)
    assert answer_f1("", [""]) == exact_match("", [""]) == 1
    assert answer_f1("", ["cat"]) == answer_f1("cat", [""]) == 0


def test_right_logits_answer_every_row(bert: Path, folder: Path) -> None:
    task, rows, features = _encoded(bert, folder)
    assert len(features) > len(rows)
    done = task.evaluate(_outputs(features), None, rows, features)
    assert done.metrics == {
        "exact_match": 1, "f1": 1, "exact_match_has_answer": 1, "f1_has_answer": 1, "exact_match_no_answer": 1
    }  # fmt: skip
    assert done.mistakes == ()


def test_the_best_window_wins_and_mistakes_say_what_was_answered(bert: Path, folder: Path) -> None:
    task, rows, features = _encoded(bert, folder)
    place = features[0]["offset_mapping"].index([0, 4])  # anna
    last = len(features) - 1
    river = features[last]["offset_mapping"].index([4, 9])
    done = task.evaluate(
        _outputs(features, w0=(place, place + 1, 9.0), **{f"w{last}": (river, river, 9.0)}), None, rows, features
    )
    assert done.metrics["exact_match"] == pytest.approx(1 / 3)
    assert done.metrics["exact_match_has_answer"] == 0.5
    assert done.metrics["exact_match_no_answer"] == 0
    mistakes = [(each.row, each.expected, each.predicted, each.loss) for each in done.mistakes]
    assert mistakes == [(1, "oslo | oslo , the old city", "anna lives", 1.0), (3, "no answer", "river", 1.0)]
    assert done.mistakes[1].input == f"who was big ? ⟂ {SHORT}"


def test_a_window_with_an_answer_outweighs_those_without(bert: Path, folder: Path) -> None:
    task, rows, features = _encoded(bert, folder)
    doubtful = {f"w{i}": (w["cls"], w["cls"], 8.0) for i, w in enumerate(features) if w["start_positions"] == w["cls"]}
    assert task.evaluate(_outputs(features, **doubtful), None, rows, features).metrics["exact_match"] == 1


def test_no_answer_is_a_choice_only_where_train_has_it(bert: Path, tmp_path: Path) -> None:
    answered = ROWS[:2]
    task, rows, features = _encoded(bert, write_splits(tmp_path, train=answered, validation=answered))
    assert task.has_unanswerable is False
    certain = {f"w{i}": (window["cls"], window["cls"], 20.0) for i, window in enumerate(features)}
    done = task.evaluate(_outputs(features, **certain), None, rows, features)
    assert done.metrics == {"exact_match": 1, "f1": 1}
    task.has_unanswerable = True
    assert task.evaluate(_outputs(features, **certain), None, rows, features).metrics["f1"] == 0


def test_both_formats_of_answers_are_equivalent(bert: Path, folder: Path, tmp_path: Path) -> None:
    as_list = [
        {**row, "answers": [{"text": t, "answer_start": s} for t, s in zip(*row["answers"].values(), strict=True)]}
        for row in ROWS
    ]
    _, _, features = _encoded(bert, folder)
    task, rows, same = _encoded(bert, write_splits(tmp_path, train=as_list, validation=as_list))
    assert same[:] == features[:]
    assert task.evaluate(_outputs(same), None, rows, same).metrics["exact_match_no_answer"] == 1


def test_a_run_learns_to_answer(bert: Path, tmp_path: Path) -> None:
    places = ("paris", "rome", "oslo", "berlin")
    rows = [
        _row(f"on {day} ben was in {place} .", "where ?", place) for place in places for day in ("monday", "friday")
    ]
    rows += [_row("ben saw the old river .", "where ?")] * 2
    data = write_splits(tmp_path / "data", train=rows, validation=rows)
    run = finetune(_config(bert, data, max_steps=60, learning_rate=5e-3), tmp_path / "run")
    assert run.metrics["validation"]["exact_match"] == 1.0
    assert run.metrics["validation"]["exact_match_no_answer"] == 1.0
    assert run.labels == ()


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_trains_and_loads_in_transformers_alone(family: str, folder: Path, tmp_path: Path) -> None:
    base = tiny_encoder(tmp_path / "base", family)
    run = finetune(_config(base, folder, max_length=48, eval_strategy="steps", eval_steps=2), tmp_path / "run")
    assert run.metrics["test"].keys() >= {"exact_match", "f1", "exact_match_has_answer", "loss"}
    checkpoint = tmp_path / "run" / "checkpoint"
    model, loaded = AutoModelForQuestionAnswering.from_pretrained(checkpoint, output_loading_info=True)
    assert not loaded["missing_keys"]
    assert model.config.has_unanswerable is True
    encoded = AutoTokenizer.from_pretrained(checkpoint)("who met anna ?", "ben", return_tensors="pt")
    encoded.pop("token_type_ids", None)
    assert model(**encoded).end_logits.shape == encoded["input_ids"].shape


def test_all_problems_come_at_once(bert: Path, tmp_path: Path) -> None:
    bad = [
        {**ROWS[1], "answers": {"text": ["river"], "answer_start": [0]}},
        {**ROWS[1], "answers": {"text": ["lake"], "answer_start": [99]}},
        {**ROWS[1], "answers": {"text": ["river", "big"], "answer_start": [4]}},
        {**ROWS[1], "context": " ", "question": ""},
    ]
    with pytest.raises(DataError) as found:
        _task(bert, write_splits(tmp_path, train=ROWS, validation=[*ROWS, *bad]))
    message = str(found.value)
    for part in (
        "validation.jsonl row 4: the answer 'river' has answer_start = 0, "
        "where the context has 'the r'; it begins at 4",
        "row 5: the answer 'lake' has answer_start = 99, "
        "where the context has nothing; the context does not contain it",
    ):
        assert part in message
    assert "row 6: answers has 2 of text and 1 of answer_start" in message
    assert "row 7: context is an empty string" in message
    assert "row 7: question is an empty string" in message
    assert "(and 1 more)" in message  # river is not in the empty context


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ("river", "answers is 'river', and"),
        (None, "answers is None, and"),
        ({"text": "river", "answer_start": 4}, "answers is {"),
        ({"text": "river", "answer_start": [4]}, "answers is {"),
        ([{"text": "river"}], "answers is [{"),
        ({"text": [""], "answer_start": [4]}, "an answer's text is an empty string"),
        ({"text": ["river"], "answer_start": [4.5]}, "answer_start is 4.5, and a whole number is expected"),
        ({"text": ["river"], "answer_start": [-15]}, "'river' has answer_start = -15, where the context has nothing"),
    ],
)
def test_answers_of_another_format_are_refused(answers: Any, message: str, bert: Path, tmp_path: Path) -> None:
    rows = [{**ROWS[1], "answers": answers}]
    with pytest.raises(DataError) as found:
        _task(bert, write_splits(tmp_path, train=rows, validation=rows))
    assert "train.jsonl row 1: " in str(found.value)
    assert message in str(found.value)


def test_a_stride_that_leaves_no_tokens_to_the_context_is_refused(bert: Path, folder: Path) -> None:
    task, _ = _task(bert, folder, max_length=16, doc_stride=5)
    with pytest.raises(DataError) as found:
        task.load_processor(str(bert))
    assert "train.jsonl row 1: 8 tokens of question leave 5 of a window to its context" in str(found.value)
    assert str(found.value).endswith("raise max_length = 16 or lower doc_stride = 5")
    task, _ = _task(bert, folder, max_length=16, doc_stride=4)
    assert task.encode(task.data.splits["train"], task.load_processor(str(bert)), train=True)


@pytest.mark.parametrize(
    "setting", [{"pooling": "cls"}, {"label_smoothing_factor": 0.1}, {"class_weights": "balanced"}]
)
def test_settings_without_effect_are_refused(setting: dict[str, Any], bert: Path, folder: Path) -> None:
    with pytest.raises(TuneportError, match=f"question-answering has no use for {next(iter(setting))}"):
        _task(bert, folder, **setting)
