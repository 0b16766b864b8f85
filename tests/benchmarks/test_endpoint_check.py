"""A server that answers otherwise than torch, or otherwise under load, is not timed."""

from pathlib import Path
from typing import Any

import orjson
import pytest
from kit.artifacts import reseal
from kit.data import read_rows, write_rows

from tuneport.errors import ArtifactError, GateError, TuneportError
from tuneport.runtime.loading import open_runner, open_task
from tuneport.runtime.tasks.base import RuntimeTask
from tuneport.schema.artifact import GOLDEN, File, Manifest
from tuneport.schema.loading import load_golden, load_manifest
from tuneport.stages.benchmarks.config import EndpointConfig
from tuneport.stages.benchmarks.endpoint.check import (
    MIN_AGREEMENT,
    ExpectedPrediction,
    check_agreement,
    count_changed,
    expected_predictions,
    variant_agreement,
)
from tuneport.stages.benchmarks.endpoint.main import bench_endpoint
from tuneport.stages.benchmarks.endpoint.targets import EndpointTarget
from tuneport.stages.benchmarks.load.main import SLICES
from tuneport.stages.benchmarks.load.plan import OK, LoadResult


@pytest.fixture(scope="module")
def task(tiny_artifact: Path, manifest: Manifest) -> RuntimeTask:
    return open_task(tiny_artifact, manifest.task, manifest.labels, manifest.processing)


def responses(expected: list[ExpectedPrediction], num_wrong: int) -> dict[int, bytes]:
    """Return response bodies for golden cases; those of the first `num_wrong` have a wrong label."""
    found = {i: {"label": each.prediction["label"], "score": 0.5} for i, each in enumerate(expected)}
    for i in range(num_wrong):
        found[i] = {"label": "wrong", "score": 0.5}
    return {i: orjson.dumps({"predictions": [each]}) for i, each in found.items()}


def target() -> EndpointTarget:
    return EndpointTarget(
        "a server", lambda _: [], "/predict", orjson.dumps, lambda body: orjson.loads(body)["predictions"][0]
    )


def untimed(statuses: dict[int, int], **fields: Any) -> LoadResult:
    """Return the result of a plan that sends each body once and times nothing."""
    return LoadResult(
        seconds=0, answered=0, answered_by_slice=(0,) * SLICES, latencies_ms=(), statuses=statuses,
        sent=sum(statuses.values()), client_cpu_s=0, **fields,
    )  # fmt: skip


@pytest.mark.parametrize(("num_wrong", "is_refused"), [(0, False), (1, False), (3, True)])
def test_an_endpoint_that_is_wrong_is_not_timed(
    tiny_artifact: Path, task: RuntimeTask, monkeypatch: pytest.MonkeyPatch, num_wrong: int, is_refused: bool
) -> None:
    expected = expected_predictions(task, load_golden(tiny_artifact))
    bodies = responses(expected, num_wrong)
    result = untimed({OK: len(bodies)}, last_bodies=bodies)
    monkeypatch.setattr("tuneport.stages.benchmarks.endpoint.check.run_load", lambda _: result)
    if is_refused:
        with pytest.raises(GateError, match="torch predicts"):
            check_agreement(target(), 1, task, expected)
    else:
        assert check_agreement(target(), 1, task, expected) == pytest.approx(1 - num_wrong / len(expected))


def test_a_server_of_a_variant_may_differ_from_torch_as_the_variant_alone_does(
    tiny_artifact: Path, task: RuntimeTask, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    golden = load_golden(tiny_artifact)
    expected = expected_predictions(task, golden)
    runner = open_runner(tiny_artifact, manifest, manifest.variant("fp32"))
    assert variant_agreement(runner, golden, expected) == 1
    changed = [*expected]
    for i in range(3):
        changed[i] = ExpectedPrediction(expected[i].input, {"label": "of torch alone", "score": 0.5})
    alone = variant_agreement(runner, golden, changed)
    assert alone == pytest.approx(1 - 3 / len(expected))
    assert alone < MIN_AGREEMENT

    result = untimed({OK: len(expected)}, last_bodies=responses(changed, 3))
    monkeypatch.setattr("tuneport.stages.benchmarks.endpoint.check.run_load", lambda _: result)
    assert check_agreement(target(), 1, task, changed, MIN_AGREEMENT * alone) == alone
    with pytest.raises(GateError, match="torch predicts"):
        check_agreement(target(), 1, task, changed)


def test_an_endpoint_that_fails_is_not_timed(
    tiny_artifact: Path, task: RuntimeTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = untimed({OK: 3, 500: 1})
    monkeypatch.setattr("tuneport.stages.benchmarks.endpoint.check.run_load", lambda _: result)
    with pytest.raises(GateError, match="500"):
        check_agreement(target(), 1, task, expected_predictions(task, load_golden(tiny_artifact)))


def test_predictions_changed_by_load_are_counted_and_refused_when_many(tiny_artifact: Path, task: RuntimeTask) -> None:
    expected = expected_predictions(task, load_golden(tiny_artifact))
    unloaded = [case.prediction for case in expected]
    assert count_changed(target(), task, unloaded, responses(expected, 0)) == 0
    assert count_changed(target(), task, unloaded, responses(expected, 1)) == 1
    with pytest.raises(GateError, match="under load"):
        count_changed(target(), task, unloaded, responses(expected, 10))


def reverse_golden_logits(artifact: Path) -> None:
    rows = read_rows(artifact / GOLDEN)
    for row in rows:
        row["outputs"][0]["logits"].reverse()
    write_rows(artifact / GOLDEN, rows)


def test_a_damaged_artifact_is_refused_before_a_server_starts(artifact: Path, tmp_path: Path) -> None:
    reverse_golden_logits(artifact)
    with pytest.raises(ArtifactError, match=r"golden\.jsonl is not the file that passed the gate"):
        bench_endpoint(EndpointConfig(artifact=artifact, connections=(1,), seconds=0.5, rounds=1), tmp_path / "report")
    assert not (tmp_path / "report").exists()


@pytest.mark.slow
def test_a_server_that_does_not_reproduce_its_golden_cases_is_not_timed(artifact: Path, tmp_path: Path) -> None:
    """All hashes are right and the golden cases are not torch's: the server itself refuses to start."""
    reverse_golden_logits(artifact)
    files = [file for file in load_manifest(artifact).files if file.path != GOLDEN]
    reseal(artifact, {"files": [file.model_dump() for file in (*files, File.of(artifact, GOLDEN))]})
    with pytest.raises(TuneportError, match=r"did not start: variant \S+ differs from torch"):
        bench_endpoint(EndpointConfig(artifact=artifact, connections=(1,), seconds=0.5, rounds=1), tmp_path / "report")
    assert not (tmp_path / "report").exists()
