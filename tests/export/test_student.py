"""The student of an export: what it is trained on, how many layers it has, who shares it, and when there is none."""

import fcntl
import itertools
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from kit.data import read_rows, write_data, write_rows
from kit.encoders import FAMILIES, build_checkpoint, tiny_encoder
from kit.exports import Prepared, export_variants, prepare, reuse_conversion
from transformers import AutoModelForSequenceClassification

from tuneport.errors import EngineError
from tuneport.schema.artifact import Metric, Parity, Rejected
from tuneport.schema.loading import load_manifest
from tuneport.stages.export import applicable, screening
from tuneport.stages.export.build import Passed, VariantBuilder
from tuneport.stages.export.card import card
from tuneport.stages.export.gate import Measurement
from tuneport.stages.export.passes import distill
from tuneport.stages.export.passes.distill import Distiller, captured, layers_of
from tuneport.stages.export.screening import screen_students
from tuneport.stages.export.student import RECORD, STUDENTS
from tuneport.stages.export.student_training import Trained, check_worth, cuts, train_inputs
from tuneport.stages.export.variants import VARIANTS

QUICK = {"prune_layers": 1, "distill_steps": 8, "max_drop": 1.0}
STUDENT_VARIANTS = {name: spec for name, spec in VARIANTS.items() if spec.student_of}


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """A random classifier of four layers with 120 rows to train on, converted."""
    folder = tmp_path_factory.mktemp("deep")
    build_checkpoint(folder / "checkpoint", num_hidden_layers=4)
    (folder / "data").mkdir()
    write_data(folder / "data", folder / "checkpoint", train=120, validation=60)
    (folder / "export").mkdir()
    return prepare(folder / "export", folder / "checkpoint", folder / "data")


@pytest.fixture(autouse=True)
def _no_student_is_kept(deep: Prepared) -> Iterator[None]:
    yield
    shutil.rmtree(deep.config.checkpoint / STUDENTS, ignore_errors=True)


def builder_of(
    deep: Prepared, folder: Path, progress: Callable[[str], object] | None = None, **settings: object
) -> tuple[VariantBuilder, list[str]]:
    """Return a builder and the lines of its progress."""
    lines: list[str] = []
    return deep.builder(folder, progress=progress or lines.append, **{**QUICK, **settings}), lines


def build(builder: VariantBuilder, name: str) -> Passed:
    outcome = builder.build_and_validate(name, replace(VARIANTS[name], min_agreement=0.01))
    assert isinstance(outcome, Passed), outcome
    return outcome


def train_rows(deep: Prepared) -> list[str]:
    """Return the texts of the train split that are not among the gate's."""
    texts = (row["text"] for row in read_rows(Path(str(deep.config.data)) / "train.jsonl"))
    return [text for text in texts if text not in deep.source.sample.inputs]


def test_variants_share_one_student_and_the_next_export_reads_it(deep: Prepared, tmp_path: Path) -> None:
    builder, lines = builder_of(deep, tmp_path / "first")
    pruned, int8 = build(builder, "pruned"), build(builder, "pruned-int8")
    assert pruned.student == int8.student
    assert pruned.student is not None
    assert (pruned.student.layers, pruned.student.full_layers) == ((0, 2, 3), 4)
    assert (pruned.student.rows, pruned.student.steps) == (len(train_rows(deep)), 8)
    assert sum("step 0" in line for line in lines) == 1
    again, lines = builder_of(deep, tmp_path / "again")
    assert build(again, "pruned").candidate.execution.files[0].sha256 == pruned.candidate.execution.files[0].sha256
    assert lines == ["reading the student that an earlier export trained"]
    assert again.context.student is not None
    assert again.context.student.record == pruned.student


def test_a_student_of_other_settings_or_with_a_changed_file_is_not_used(deep: Prepared, tmp_path: Path) -> None:
    build(builder_of(deep, tmp_path / "first")[0], "pruned")
    (kept,) = (deep.config.checkpoint / STUDENTS).iterdir()
    assert {each.name for each in kept.iterdir()} == {RECORD, "model.onnx"}
    (kept / "model.onnx").write_bytes((kept / "model.onnx").read_bytes() + b"x")
    for settings in ({}, {"seed": 7}, {"prune_layers": 2}):
        builder, lines = builder_of(deep, tmp_path / str(settings), **settings)
        build(builder, "pruned")
        assert any("step 0" in line for line in lines)
    assert len(list((deep.config.checkpoint / STUDENTS).iterdir())) == 3


def test_two_exports_at_the_same_time_train_one_student(deep: Prepared, tmp_path: Path) -> None:
    """The second one waits, says so, and uses the first one's."""
    lines: list[str] = []

    def follow(line: str) -> None:
        lines.append(line)
        if line.startswith("waiting"):
            may_train.set()

    def hold(line: str) -> None:
        if "step 0" in line:
            is_training.set()
            assert may_train.wait(60)

    is_training, may_train = threading.Event(), threading.Event()
    first, _ = builder_of(deep, tmp_path / "first", progress=hold)
    second, _ = builder_of(deep, tmp_path / "second", progress=follow)
    with ThreadPoolExecutor(2) as pool:
        begun = pool.submit(build, first, "pruned")
        assert is_training.wait(60)
        waited = pool.submit(build, second, "pruned")
        assert waited.result(60).student == begun.result(60).student
    assert lines == [
        "waiting for another export, which trains the same student",
        "reading the student that an earlier export trained",
    ]
    assert [each.name for each in (deep.config.checkpoint / STUDENTS).iterdir() if each.is_file()] == []


def test_an_error_of_the_progress_while_it_waits_ends_the_export(deep: Prepared, tmp_path: Path) -> None:
    """It must not be taken for a file system without locks: two exports would train the same student."""

    def progress(line: str) -> None:
        if line.startswith("waiting for another export"):
            raise BrokenPipeError(32, "Broken pipe")

    student = builder_of(deep, tmp_path, progress)[0].context.student
    assert student is not None
    lock = deep.config.checkpoint / STUDENTS / f".{student._key()}.lock"
    lock.parent.mkdir()
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(BrokenPipeError):
            student.make()


def test_where_it_cannot_be_kept_it_is_trained_all_the_same(deep: Prepared, tmp_path: Path) -> None:
    (deep.config.checkpoint / STUDENTS).write_text("in the way")
    builder, lines = builder_of(deep, tmp_path)
    assert build(builder, "pruned").student is not None
    assert any(line.startswith("the student is not kept for the next export: ") for line in lines)
    (deep.config.checkpoint / STUDENTS).unlink()


def test_training_brings_a_student_closer_to_the_full_model(deep: Prepared) -> None:
    inputs = train_inputs(deep.config, deep.source, deep.reference)
    distiller = Distiller(deep.reference.model, inputs, per_token=False, seed=1)
    feeds = deep.reference.model.encode(inputs[:32])
    student = distiller.full.without(1)
    before = distiller._loss(student, feeds).item()
    assert distiller.train(student, steps=40, seconds=60) == 40
    assert distiller._loss(student, feeds).item() < 0.5 * before
    assert [len(layers_of(each.model)) for each in (distiller.full, student)] == [4, 3]


def test_gradients_of_a_batch_in_parts_are_those_of_the_batch(deep: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    feeds = deep.reference.model.encode(["a", "b c d", "e f", "g"])
    rows, length = feeds["attention_mask"].shape
    monkeypatch.setattr(distill, "PART_TOKENS", 3 * length)
    parts = list(distill.split_rows(feeds))
    assert [share for share, _ in parts] == [3 / 4, 1 / 4]
    assert all(torch.equal(torch.cat([part[name] for _, part in parts]), feeds[name]) for name in feeds)
    monkeypatch.setattr(distill, "PART_TOKENS", 1)  # a row is never split
    assert [len(part["input_ids"]) for _, part in distill.split_rows(feeds)] == [1] * rows


def test_the_lengths_of_batches_are_few(deep: Prepared) -> None:
    """Torch keeps code and memory for each shape; a maximum length that is no multiple is kept, too."""
    model, task = deep.reference.model, deep.reference.runtime_task
    long = task.parse_input("word " * 500)
    assert deep.source.checkpoint.max_length % distill.LENGTH_MULTIPLE == 0
    distiller = Distiller(model, [*map(task.parse_input, train_rows(deep)), long], per_token=False, seed=0)
    lengths = {feeds["input_ids"].shape[1] for feeds in itertools.islice(distiller._batches(), 12)}
    assert max(lengths) == deep.source.checkpoint.max_length
    assert all(length % distill.LENGTH_MULTIPLE == 0 for length in lengths)
    half = deep.source.checkpoint.max_length // 2
    assert model.encode([task.parse_input("word")], multiple=half * 3)["input_ids"].shape[1] == half
    assert model.encode([long], multiple=half * 3)["input_ids"].shape[1] == 2 * half


def test_embeddings_are_not_trained(deep: Prepared) -> None:
    inputs = train_inputs(deep.config, deep.source, deep.reference)
    distiller = Distiller(deep.reference.model, inputs, per_token=False, seed=1)
    student = distiller.full.without(1)
    distiller.train(student, steps=2, seconds=60)
    full, ours = (each.model.bert for each in (distiller.full, student))
    assert torch.equal(full.embeddings.word_embeddings.weight, ours.embeddings.word_embeddings.weight)
    assert not torch.equal(full.encoder.layer[0].output.dense.weight, ours.encoder.layer[0].output.dense.weight)


def test_training_ends_with_its_time(deep: Prepared) -> None:
    lines: list[str] = []
    distiller = Distiller(deep.reference.model, ["a", "b c"], per_token=False, seed=1, progress=lines.append)
    assert distiller.train(distiller.full.without(1), steps=10**9, seconds=0.2) > 0
    assert "at most 0 s left" in lines[0]


def test_hidden_states_and_attention_count_as_well_as_outputs(deep: Prepared) -> None:
    """Equal outputs are not enough: a layer that is scaled and undone in the next one is an error of its own."""
    distiller = Distiller(deep.reference.model, ["a", "b c d"], per_token=False, seed=1)
    feeds = deep.reference.model.encode(["a", "b c d"])
    with torch.no_grad():
        assert distiller._loss(distiller.full, feeds).item() == pytest.approx(0, abs=1e-3)
        student = distiller.full.without(1)
        attention = layers_of(student.model)[0].attention.self
        loss = distiller._loss(student, feeds).item()
        attention.query.weight *= -3
        assert distiller._loss(student, feeds).item() > loss + 0.01


@pytest.mark.parametrize("family", FAMILIES)
def test_the_states_of_the_layers_of_every_family_are_found(family: str, tmp_path: Path) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(tiny_encoder(tmp_path, family)).eval()
    with captured(model) as states:
        model(input_ids=torch.tensor([[2, 5, 6, 3]]))
    assert [each.shape.numel() for each in states] == [4 * 32] * 2


@pytest.mark.parametrize(
    ("depth", "asked", "expected"),
    [(3, None, [1]), (4, None, [1, 2]), (6, None, [2, 3]), (12, None, [4, 6]), (12, 5, [5])],
)
def test_a_third_of_the_layers_is_left_out_and_then_half(depth: int, asked: int | None, expected: list[int]) -> None:
    assert cuts(depth, asked) == expected


@pytest.mark.parametrize(("value", "agreement", "good"), [(0.895, 0.9, True), (0.894, 1, False), (0.9, 0.89, False)])
def test_a_student_may_lose_as_much_as_it_is_allowed(
    deep: Prepared, value: float, agreement: float, good: bool
) -> None:
    parity = Parity(golden_cases=1, texts=1, max_abs_diff=1, golden_max_abs_diff=1, agreement=agreement)
    measurement = Measurement(parity, Metric(name="accuracy", value=value, torch=0.9))
    student = Distiller(deep.reference.model, [], per_token=False, seed=1).full
    assert Trained(student, 1, 1.0, measurement).loses_at_most(0.0055) == good


def test_rows_of_the_gate_are_not_trained_on(deep: Prepared, tmp_path: Path) -> None:
    shutil.copytree(Path(str(deep.config.data)), tmp_path / "data")
    train, validation = (read_rows(tmp_path / "data" / f"{split}.jsonl") for split in ("train", "validation"))
    write_rows(tmp_path / "data" / "train.jsonl", [*train, *validation[:30]])
    (tmp_path / "export").mkdir()
    both = prepare(tmp_path / "export", deep.config.checkpoint, tmp_path / "data")
    assert train_inputs(both.config, both.source, both.reference) == train_rows(deep)


def test_without_a_train_split_there_is_no_student(deep: Prepared, tmp_path: Path) -> None:
    """A single file may be all that the user has to evaluate with."""
    rows = [
        row for split in ("train", "validation") for row in read_rows(Path(str(deep.config.data)) / f"{split}.jsonl")
    ]
    file = write_rows(tmp_path / "evaluation.jsonl", rows)
    config = deep.config.model_copy(update={"data": str(file)})
    with pytest.raises(EngineError, match=r"trained on a train split, which .*evaluation.jsonl does not have"):
        train_inputs(config, deep.source, deep.reference)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [({"distill_minutes": 0.0}, "no time to train"), ({"data": None}, "has no rows that the gate does not use")],
)
def test_a_student_that_is_not_worth_its_training_is_refused_with_the_reason(
    deep: Prepared, settings: dict[str, float], reason: str
) -> None:
    check_worth(deep.config, deep.source, deep.reference)
    with pytest.raises(EngineError, match=reason):
        check_worth(deep.config.model_copy(update=settings), deep.source, deep.reference)


def test_students_of_slow_or_failed_variants_are_not_trained(deep: Prepared, tmp_path: Path) -> None:
    builder, lines = builder_of(deep, tmp_path)
    specs = {name: STUDENT_VARIANTS[name] for name in ("pruned", "pruned-int8", "pruned-openvino-int8")}
    chosen, rejected = screen_students(builder, specs, {"fp32": 1.0, "int8": 0.5})
    assert list(chosen) == ["pruned-int8"]
    assert {each.name: each.reason for each in rejected} == {
        "pruned": "it is not built, because fp32 costs 2.00 times as much as int8",
        "pruned-openvino-int8": "it is not built, because openvino-int8 is not in the artifact",
    }
    assert not any("training" in line for line in lines)


@pytest.mark.usefixtures("_quick_exports")
def test_an_export_without_names_screens_the_students(
    deep: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The default variants are few here, and how fast they are does not matter."""
    student = replace(VARIANTS["pruned-int8"], min_agreement=0.01)
    defaults = {"pruned-int8": student, "pruned-other": replace(student, student_of="other")}
    monkeypatch.setattr(applicable, "VARIANTS", {name: VARIANTS[name] for name in ("fp32", "int8")} | defaults)
    monkeypatch.setattr(screening, "CLOSE", 1e9)
    reuse_conversion(deep, monkeypatch)
    settings = {**QUICK, "distill_steps": 2, "mixed_precision_minutes": 0}
    manifest = export_variants(deep.config.checkpoint, Path(str(deep.config.data)), tmp_path / "out", **settings)
    assert {each.name: each.reason for each in manifest.rejected} == {
        "pruned-other": "it is not built, because other is not in the artifact"
    }
    assert [each.name for each in manifest.variants if each.evidence.student] == ["pruned-int8"]
    assert {each.name for each in manifest.variants} == {"fp32", "int8", "pruned-int8"}
    assert manifest.default_because.startswith("the highest throughput")


@pytest.mark.slow
@pytest.mark.usefixtures("_quick_exports")
def test_an_export_with_data_tries_a_student_and_says_so(deep: Prepared, tmp_path: Path) -> None:
    """Its default variants include those of the student: they are in the artifact, or left out with the reason."""
    settings = {"distill_steps": 4, "distill_minutes": 1.0, "max_drop": 1.0, "objective": "size"}
    manifest = export_variants(deep.config.checkpoint, Path(str(deep.config.data)), tmp_path / "out", **settings)
    students = [each for each in manifest.variants if each.evidence.student]
    tried = {each.name for each in (*students, *manifest.rejected)}
    assert "pruned-int8" in tried
    assert load_manifest(tmp_path / "out") == manifest
    for each in students:
        assert f"{each.name} is a student: " in card(manifest)


def test_a_model_of_two_layers_has_none_to_spare(prepared: Prepared, tmp_path: Path) -> None:
    reason = "a student needs a model of 3 layers or more, and this one has 2"
    specs = {"pruned-int8": VARIANTS["pruned-int8"]}
    assert screen_students(prepared.builder(tmp_path), specs, {}) == ({}, [Rejected(name="pruned-int8", reason=reason)])
