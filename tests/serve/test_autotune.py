"""Autotuning on a host unlike the one that timed the artifact."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from kit.artifacts import timed_on_another_host

from tuneport.errors import EngineError
from tuneport.gpu import Gpu
from tuneport.host import Host
from tuneport.runtime import loading
from tuneport.runtime.scheduler import pack_batches
from tuneport.schema.artifact import Manifest, Variant
from tuneport.schema.loading import load_golden, load_manifest
from tuneport.stages.serve import autotune, logs
from tuneport.stages.serve.autotune import COPIES, ROUNDS, is_unlike, rows_per_s, select_variant_for_host
from tuneport.stages.serve.settings import Settings


@pytest.mark.parametrize("changes", [{"cores": 99}, {"instructions": ["other"]}])
def test_on_another_host_the_variants_are_timed_again(
    artifact: Path, changes: dict[str, object], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    names = [variant.name for variant in load_manifest(artifact).variants]
    speeds = iter(range(len(names)))
    monkeypatch.setattr(autotune, "rows_per_s", lambda *_: float(next(speeds)))
    logs.set_up()
    assert select_variant_for_host(timed_on_another_host(artifact, **changes), Settings()) == names[-1]
    [line] = [line for line in capfd.readouterr().err.splitlines() if "autotuned" in line]
    logged = json.loads(line)
    assert logged["rows_per_s"] == dict(zip(names, map(float, range(len(names))), strict=True))
    assert logged["serves"] == names[-1]


def test_a_variant_without_its_engine_is_skipped(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_runner = loading.open_runner

    def without_int8(folder: Path, manifest: Manifest, variant: Variant, **options: Any) -> object:
        if variant.name != "fp32":
            raise EngineError("no such engine", "install it")
        return open_runner(folder, manifest, variant, **options)

    monkeypatch.setattr(loading, "open_runner", without_int8)
    assert select_variant_for_host(timed_on_another_host(artifact, cores=99), Settings()) == "fp32"


def test_the_speed_is_that_of_the_best_round(
    tiny_artifact: Path, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a clock that only the engine advances: 20 ms a row in one round, 40 ms in the others and the warm-up."""
    runner = loading.open_runner(tiny_artifact, manifest, manifest.variant("fp32"))
    runner.streams = 1
    golden = load_golden(tiny_artifact)
    texts = [row.ids for rows in runner.task.encode([case.input for case in golden]) for row in rows]
    rows_of_a_round = COPIES * len(texts)
    ran: list[list[int]] = []
    seconds = 0.0

    def run_batch(rows: Any) -> list[Any]:
        nonlocal seconds
        is_best_round = warm_up_rows + rows_of_a_round <= len(ran) < warm_up_rows + 2 * rows_of_a_round
        seconds += (0.02 if is_best_round else 0.04) * len(rows)
        ran.extend(row.ids for row in rows)
        return []

    warm_up_rows = len(pack_batches([*map(len, texts * COPIES)], runner.limits)[0])
    runner.run_batch = run_batch  # type: ignore[method-assign]
    monkeypatch.setattr(autotune, "time", SimpleNamespace(perf_counter=lambda: seconds))
    assert rows_per_s(runner, golden) == pytest.approx(50)
    assert len(ran) == warm_up_rows + ROUNDS * rows_of_a_round
    assert all(ran.count(ids) >= ROUNDS * COPIES for ids in texts)


def test_on_a_like_host_the_manifest_s_choice_stands(tiny_artifact: Path, artifact: Path) -> None:
    assert load_manifest(tiny_artifact).host.cores == Host.here().cores
    assert select_variant_for_host(tiny_artifact, Settings()) is None
    # Another processor with the same cores and instructions is like enough.
    assert select_variant_for_host(timed_on_another_host(artifact, cpu="another", memory_gib=1.0), Settings()) is None


def test_for_a_gpu_the_gpu_decides() -> None:
    host = Host(cpu="a", cores=2, instructions=("avx2",), memory_gib=8.0, system="Linux x86_64")
    h100 = Gpu(name="H100", compute_capability="9.0", memory_gib=80.0)
    l4 = Gpu(name="L4", compute_capability="8.9", memory_gib=24.0)
    one, other = host.model_copy(update={"gpus": (h100,)}), host.model_copy(update={"gpus": (l4,)})
    assert is_unlike(one, other, "cuda")
    assert not is_unlike(one, one.model_copy(update={"cores": 99}), "cuda")
    assert not is_unlike(one, other, "cpu")
    same_model = one.model_copy(update={"gpus": (h100.model_copy(update={"uuid": "GPU-another"}),)})
    assert not is_unlike(one, same_model, "cuda")
    assert is_unlike(one, host, "cuda")
