"""What other tools make of a checkpoint: measured beside the variants, refused when wrong, named when it fails."""

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tuneport.errors import EngineError
from tuneport.runtime.batch import EncodedInput
from tuneport.runtime.tasks.generation import Prompt
from tuneport.runtime.tasks.sampling import SamplingParams
from tuneport.schema.artifact import Manifest
from tuneport.stages.benchmarks import engine_peers
from tuneport.stages.benchmarks.config import BenchConfig
from tuneport.stages.benchmarks.engine import bench
from tuneport.stages.benchmarks.engine_peers import open_peers
from tuneport.stages.benchmarks.generator import running_generator
from tuneport.stages.benchmarks.peers.registry import FAILED, PEERS, Peer

GENERATOR = """
import json, sys
print(json.dumps({"size": 7}), flush=True)
for line in sys.stdin:
    request = json.loads(line)
    if "scored" in request:
        answer = {"losses": request["scored"][request["from"] :], "hits": [1.0] * request["from"]}
    else:
        answer = [ids[::-1][: request["max"]] for ids in request["ids"]]
    print(json.dumps(answer), flush=True)
    if [9] in request.get("ids", []):
        break
"""


def prompt(ids: list[int], most: int, **fields: Any) -> Prompt:
    return Prompt(ids, [0] * len(ids), False, sampling=SamplingParams(max_new_tokens=most), **fields)


def test_a_generator_in_a_process_answers_rows_in_order_whatever_their_limits() -> None:
    command = [sys.executable, "-c", GENERATOR]
    with running_generator(command, task=None) as (runner, size):  # type: ignore[arg-type]
        assert size == 7
        rows: list[EncodedInput] = [prompt([1, 2, 3], 2), prompt([4, 5], 9), prompt([6, 7, 8], 2)]
        assert [each["tokens"].tolist() for each in runner.run_batch(rows)] == [[3, 2], [5, 4], [8, 7]]
        (scored,) = runner.run_batch([prompt([1, 2], 1, scored=(1, 2, 5, 6), scored_from=2)])
        assert {name: values.tolist() for name, values in scored.items()} == {
            "tokens": [2], "losses": [5, 6], "hits": [1, 1],
        }  # fmt: skip
        runner.run_batch([prompt([9], 1)])
        runner._process.wait(20)
        with pytest.raises(EngineError, match="ended"):
            runner.run_batch([prompt([1], 1)])


def test_a_generator_that_does_not_start_is_an_error_with_its_last_words() -> None:
    command = [sys.executable, "-c", "raise SystemExit('the vocabulary does not fit')"]
    with (
        pytest.raises(EngineError, match="the vocabulary does not fit"),
        running_generator(command, task=None),  # type: ignore[arg-type]
    ):
        pass


def test_a_tool_that_is_not_there_or_fails_is_named_with_the_reason(
    tiny_artifact: Path, tiny_checkpoint: Path, manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "olive").mkdir()
    (tmp_path / "olive" / FAILED).write_text("ERROR: no version fits.\n")
    broken = tmp_path / "broken_graph.py"
    broken.write_text("raise SystemExit('no such operator')")

    class Broken(Peer):
        @property
        def script(self) -> Path:
            return broken

    peers = (
        Peer("Olive", "olive", ("olive-ai==0.13.0",), kind="graph", precisions=("fp32", "int8")),
        Broken("Broken", "broken", (), kind="graph", precisions=("int8",)),
    )
    monkeypatch.setattr(engine_peers, "peers_of", lambda kind: peers)
    config = BenchConfig(artifact=tiny_artifact, peers=tmp_path)
    with ExitStack() as stack:
        models, notes = open_peers(config, manifest, tiny_checkpoint, "cpu", ["a"], stack, lambda _: None)
        assert not models
    assert notes == (
        "Olive fp32: it cannot be installed here (ERROR: no version fits).",
        "Olive int8: it cannot be installed here (ERROR: no version fits).",
        "Broken int8: it fails (no such operator).",
    )
    with ExitStack() as stack:
        without = BenchConfig(artifact=tiny_artifact)
        assert open_peers(without, manifest, tiny_checkpoint, "cpu", ["a"], stack, lambda _: None) == ({}, ())


def test_generators_are_named_with_the_tasks_or_the_device_that_they_are_made_for(
    tiny_artifact: Path, manifest: Manifest, tmp_path: Path
) -> None:
    config = BenchConfig(artifact=tiny_artifact, peers=tmp_path)
    generators = [peer for peer in PEERS if peer.kind == "generator"]
    assert all(peer.tasks for peer in generators)
    for task, device, absent in (
        ("text-generation", "cpu", "CTranslate2 int8: it is made for translation and summarization."),
        ("translation", "cpu", "ONNX Runtime GenAI int4: it is made for text-generation."),
        ("text-generation", "cpu", "ONNX Runtime GenAI fp16: it is made for cuda."),
        ("text-generation", "cuda", "ONNX Runtime GenAI int4: it is made for cpu."),
        ("text-generation", "cuda", "ONNX Runtime GenAI fp16: there is no environment in onnxruntime_genai_cuda."),
    ):
        asked = manifest.model_copy(update={"task": task})
        with ExitStack() as stack:
            models, notes = open_peers(config, asked, tmp_path, device, [], stack, lambda _: None)  # type: ignore[arg-type]
        assert not models
        assert absent in notes


@pytest.mark.slow
def test_optimum_s_own_quantization_is_timed_beside_the_variants_or_refused_with_its_figures(
    tiny_artifact: Path, tmp_path: Path
) -> None:
    config = BenchConfig(artifact=tiny_artifact, peers=tmp_path, num_inputs=20, rounds=1, shapes=("1x8",))
    report = bench(config, tmp_path / "report")
    found = {each.name: each for each in report.results}
    assert any("Olive fp32: there is no environment in olive" in note for note in report.notes)
    refused = [note for note in report.notes if "Optimum int8" in note]
    assert ("Optimum int8" in found) != bool(refused)
    if refused:
        assert "it differs from torch" in refused[0]
    else:
        assert found["Optimum int8"].size_bytes
        assert found["Optimum int8"].memory_mib
        assert found["Optimum int8"].agreement >= 0.99
    assert found["torch fp32"].memory_mib
    assert found["torch fp32"].cold_start_ms
