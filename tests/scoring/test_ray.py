"""Batch scoring on a Ray cluster of two nodes, one of which is killed in the middle. Needs tuneport[ray]."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kit.command import assert_one_line, tuneport
from kit.scoring import write_table
from kit.texts import random_texts

from tuneport.runtime.predictor import Predictor
from tuneport.schema.loading import load_manifest
from tuneport.scoring.config import ScoreConfig
from tuneport.scoring.journal import folder_of
from tuneport.scoring.pipeline import Progress, score

pytestmark = [
    pytest.mark.slow,
    # Ray and what it starts leave files and sockets for the garbage collector to close.
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning", "ignore::FutureWarning",
                               "ignore::pytest.PytestUnraisableExceptionWarning"),
]  # fmt: skip
ROWS = 4000
START_TIMEOUT_S = 180
STARTS = 3


@pytest.fixture
def cluster() -> Iterator[Any]:
    """A head without processors, and two nodes with one each."""
    pytest.importorskip("ray", reason="tuneport[ray] is not installed")
    opened = start_cluster()
    try:
        yield opened
    finally:
        opened.shutdown()


def start_cluster() -> Any:
    """Start the nodes without the processes that are not needed.

    Ray itself gives a node no more than 30 seconds, with an exception of no class of its own; on a busy machine each
    takes half of that, so that the whole cluster is started again if one is too late.
    """
    from ray.cluster_utils import Cluster

    options = {"object_store_memory": 100 * 2**20, "wait": False, "include_log_monitor": False}
    head = {"num_cpus": 0, "include_dashboard": False, "no_monitor": True, **options}
    for attempt in range(1, STARTS + 1):
        cluster = Cluster()
        try:
            cluster.add_node(**head)
            cluster.nodes = [cluster.add_node(num_cpus=1, **options) for _ in range(2)]
            cluster.wait_for_nodes(timeout=START_TIMEOUT_S)
            return cluster
        except Exception as error:
            cluster.shutdown()
            if attempt == STARTS or "timed out" not in str(error).lower():
                raise
    raise AssertionError  # the last attempt returns or raises


def test_a_killed_node_costs_no_row(cluster: Any, tiny_artifact: Path, tmp_path: Path) -> None:
    texts = random_texts(5)
    rows = [{"id": i, "text": next(texts)} for i in range(ROWS)]
    source, out = write_table(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    killed = threading.Event()

    def kill_one_node(progress: Progress) -> None:
        if progress.done_rows >= ROWS // 10 and not killed.is_set():
            killed.set()
            cluster.remove_node(cluster.nodes[0], allow_graceful=False)

    config = ScoreConfig(
        artifact=tiny_artifact, input=source, variant="fp32", window_rows=20, threads=1, ray=cluster.address
    )
    result = score(config, out, progress=kill_one_node)
    assert killed.is_set()
    assert (result.scored, result.rejected) == (ROWS, 0)
    found = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["id"] for row in found] == list(range(ROWS))
    expected = Predictor(tiny_artifact, "fp32").predict([row["text"] for row in rows])
    assert [row["prediction"]["label"] for row in found] == [each["label"] for each in expected]
    assert not folder_of(out).exists()


def test_the_best_variant_that_all_nodes_run_is_chosen(cluster: Any, artifact: Path, tmp_path: Path) -> None:
    """The default variant of this artifact needs a GPU, and no node has one."""
    manifest = load_manifest(artifact)
    on_gpu = manifest.variant("int8").execution.model_copy(update={"device": "cuda"})
    variants = (manifest.variant("fp32"), manifest.variant("int8").model_copy(update={"execution": on_gpu}))
    manifest.model_copy(update={"variants": variants, "default_variant": "int8"}).save(artifact)
    source, out = write_table(tmp_path / "in.jsonl", [{"text": "bank"}]), tmp_path / "out.jsonl"
    answer = tuneport("score", artifact, source, "--out", out, "--ray", cluster.address)
    assert answer.code == 0, answer.err
    assert json.loads(out.read_text())["prediction"] == Predictor(artifact, "fp32").predict(["bank"])[0]


def test_a_cluster_that_does_not_answer_is_one_line(tiny_artifact: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="tuneport[ray] is not installed")
    source = write_table(tmp_path / "in.jsonl", [{"text": "bank"}])
    answer = tuneport("score", tiny_artifact, source, "--out", tmp_path / "out.jsonl", "--ray", "127.0.0.1:1")
    assert answer.code == 1
    assert_one_line(answer.err, "127.0.0.1:1", "ray start")
