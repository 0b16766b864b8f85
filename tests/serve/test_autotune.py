"""Autotuning on a host unlike the one that timed the artifact."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from kit.artifacts import of_devices, reseal, timed_on_another_host

from tuneport.errors import EngineError
from tuneport.gpu import Gpu
from tuneport.host import Host
from tuneport.runtime import availability, loading
from tuneport.runtime.runner import ModelRunner
from tuneport.runtime.scheduler import BATCH_TOKENS, pack_batches
from tuneport.schema.artifact import Manifest, Variant
from tuneport.schema.loading import load_golden, load_manifest
from tuneport.stages.serve import autotune, logs, speed_cache
from tuneport.stages.serve.autotune import (
    COPIES,
    ROUNDS,
    HostOverrides,
    best_speed,
    is_unlike,
    rows_per_s,
    select_for_host,
    warn_of_other_processor,
)
from tuneport.stages.serve.settings import Settings
from tuneport.stages.serve.speed_cache import Speed


@pytest.mark.parametrize("changes", [{"cores": 99}, {"instructions": ["other"]}])
def test_on_another_host_the_variants_are_timed_again(
    artifact: Path, changes: dict[str, object], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    names = [variant.name for variant in load_manifest(artifact).variants]
    speeds = iter(range(len(names)))
    monkeypatch.setattr(autotune, "rows_per_s", lambda *_: float(next(speeds)))
    logs.set_up()
    assert select_for_host(timed_on_another_host(artifact, **changes), Settings()) == HostOverrides(names[-1])
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
    assert select_for_host(timed_on_another_host(artifact, cores=99), Settings()).variant == "fp32"


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
    assert select_for_host(tiny_artifact, Settings()) == HostOverrides()
    # Another processor with the same cores and instructions is like enough.
    assert (
        select_for_host(timed_on_another_host(artifact, cpu="another", memory_gib=1.0), Settings()) == HostOverrides()
    )


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


def test_on_another_gpu_the_token_limit_is_chosen_again(
    tiny_artifact: Path, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With an engine whose throughput grows up to batches of 128 tokens."""
    runner = loading.open_runner(tiny_artifact, manifest, manifest.variant("fp32"))
    golden = load_golden(tiny_artifact)
    monkeypatch.setitem(BATCH_TOKENS, "cuda", (64, 128, 256))

    def rate(runner: ModelRunner, *_: Any, min_tokens: int) -> float:
        assert min_tokens == 2 * runner.limits.tokens
        return {64: 50.0, 128: 99.0, 256: 100.0}[runner.limits.tokens]

    monkeypatch.setattr(autotune, "rows_per_s", rate)
    assert best_speed(runner, golden, "cuda", Settings()) == Speed(100.0, 128)
    monkeypatch.setattr(autotune, "rows_per_s", lambda *_: 7.0)
    assert best_speed(runner, golden, "cuda", Settings(max_batch_tokens=64)) == Speed(7.0, None)
    assert best_speed(runner, golden, "cpu", Settings()) == Speed(7.0, None)


def test_batches_of_a_gpu_are_filled(tiny_artifact: Path, manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = loading.open_runner(tiny_artifact, manifest, manifest.variant("fp32"))
    monkeypatch.setattr(autotune, "SECONDS_EACH", 0)
    ran: list[int] = []
    runner.run_batch = lambda rows: ran.append(sum(map(len, rows))) or []  # type: ignore[method-assign]
    runner.limits = replace(runner.limits, tokens=5000)
    rows_per_s(runner, load_golden(tiny_artifact), min_tokens=10_000)
    assert sum(ran[1:]) >= ROUNDS * 10_000


def test_on_a_gpu_the_variants_are_timed_in_a_process_of_its_own(tiny_artifact: Path, manifest: Manifest) -> None:
    """The same code for every device, here on the CPU."""
    speeds = autotune.measure_apart(tiny_artifact, manifest, list(manifest.variants), Settings())
    assert list(speeds) == [variant.name for variant in manifest.variants]
    assert all(speed.rows_per_s > 0 and speed.max_batch_tokens is None for speed in speeds.values())


def test_a_process_that_ends_before_it_has_timed_anything_is_no_failure(
    artifact: Path, manifest: Manifest, capfd: pytest.CaptureFixture[str]
) -> None:
    logs.set_up()
    (artifact / "manifest.json").write_text("{}")
    assert autotune.measure_apart(artifact, manifest, list(manifest.variants), Settings()) == {}
    assert "autotuning failed" in capfd.readouterr().err


H100 = Gpu(name="H100", compute_capability="9.0", memory_gib=80.0, uuid="GPU-a")
L4 = Gpu(name="L4", compute_capability="8.9", memory_gib=24.0, uuid="GPU-b")


OTHER_NAMES = '{"fp32": {"rows_per_s": 900, "max_batch_tokens": 64}}'


class OnAGpu:
    """A start of a service on a GPU; the timings, which need one, are counted and invented."""

    def __init__(self, folder: Path, manifest: Manifest, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        of_devices(manifest, ("fp16", {"device": "cuda"}), ("fused", {"device": "cuda"})).save(folder)
        self.folder, self.timed = folder, 0
        self.others: tuple[Gpu, ...] = ()
        """GPUs before the one that is given."""
        self.speeds = {"fp16": Speed(100.0, 4096), "fused": Speed(50.0, 1024)}
        self._patch = monkeypatch
        monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
        monkeypatch.setattr(availability, "_providers", lambda: ("CUDAExecutionProvider",))
        monkeypatch.setattr(autotune, "measure_apart", self._measure)

    def _measure(self, folder: Path, manifest: Manifest, variants: list[Variant], settings: Settings) -> Any:
        self.timed += 1
        return {name: self.speeds[name] for name in self.speeds if name in {each.name for each in variants}}

    def record(self, *executions: tuple[str, dict[str, Any]]) -> None:
        """Replace the variants."""
        of_devices(load_manifest(self.folder), *executions).save(self.folder)

    def start(self, gpu: Gpu = H100, driver: str = "590", **settings: Any) -> HostOverrides:
        host = Host.here().model_copy(update={"gpus": (*self.others, gpu), "driver": driver})
        self._patch.setattr(Host, "here", lambda: host)
        return select_for_host(self.folder, Settings(**settings))


@pytest.fixture
def on_a_gpu(artifact: Path, manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> OnAGpu:
    return OnAGpu(artifact, manifest, tmp_path / "cache", monkeypatch)


def test_speeds_on_another_gpu_are_measured_at_the_first_start_alone(
    on_a_gpu: OnAGpu, capfd: pytest.CaptureFixture[str]
) -> None:
    logs.set_up()
    assert [on_a_gpu.start() for _ in range(3)] == [HostOverrides("fp16", 4096)] * 3
    assert on_a_gpu.timed == 1
    assert [line["timed"] for line in logged(capfd, "autotuned")] == ["now", *["at an earlier start"] * 2]
    on_a_gpu.start(H100.model_copy(update={"uuid": "GPU-another"}))  # of the same model
    assert on_a_gpu.timed == 1


def test_speeds_are_measured_again_for_what_they_do_not_hold_for(
    on_a_gpu: OnAGpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    for count, changes in enumerate(({}, {"gpu": L4}, {"driver": "600"}, {"gpu_memory_gib": 4}, {"threads": 7}), 1):
        on_a_gpu.start(**changes)  # type: ignore[arg-type]
        assert on_a_gpu.timed == count
    monkeypatch.setattr(speed_cache, "version", lambda package: "another")
    on_a_gpu.start()
    assert on_a_gpu.timed == 6
    manifest = load_manifest(on_a_gpu.folder)
    manifest.model_copy(update={"labels": tuple(reversed(manifest.labels))}).save(on_a_gpu.folder)
    on_a_gpu.start()
    assert on_a_gpu.timed == 7


def test_where_gpus_differ_the_variants_that_run_on_the_same_ones_are_timed_for_these(on_a_gpu: OnAGpu) -> None:
    """Workers are on the GPUs that fit the default variant; another one must not leave some of them idle."""
    demanding = {"device": "cuda", "min_compute_capability": "8.0"}
    on_a_gpu.record(("bf16", demanding), ("fp16", {"device": "cuda"}), ("fused", demanding))
    on_a_gpu.speeds = {"bf16": Speed(50.0, 1024), "fp16": Speed(900.0, 64), "fused": Speed(60.0, 4096)}
    assert on_a_gpu.start() == HostOverrides("fp16", 64)
    on_a_gpu.others = (L4.model_copy(update={"name": "T4", "compute_capability": "7.5"}),)
    assert on_a_gpu.start() == HostOverrides("fused", 4096)
    assert on_a_gpu.timed == 2
    on_a_gpu.others = (on_a_gpu.others[0].model_copy(update={"uuid": "GPU-c"}),)
    on_a_gpu.start()
    assert on_a_gpu.timed == 2  # the cache is that of the GPU that serves


@pytest.mark.parametrize("content", ["", "{", "[]", '{"fp16": {"rows_per_s": "many"}}', OTHER_NAMES])
def test_a_damaged_cache_is_measured_again_and_replaced(on_a_gpu: OnAGpu, tmp_path: Path, content: str) -> None:
    on_a_gpu.start()
    [file] = (tmp_path / "cache").rglob("*.json")
    file.write_text(content)
    assert [on_a_gpu.start() for _ in range(2)] == [HostOverrides("fp16", 4096)] * 2
    assert on_a_gpu.timed == 2


def test_a_cache_that_cannot_be_written_is_no_failure(
    on_a_gpu: OnAGpu, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "cache").write_bytes(b"a file")
    logs.set_up()
    assert [on_a_gpu.start() for _ in range(2)] == [HostOverrides("fp16", 4096)] * 2
    assert on_a_gpu.timed == 2
    assert logged(capfd, "autotuning cache unwritable")


def test_what_failed_at_one_start_is_tried_at_the_next(on_a_gpu: OnAGpu) -> None:
    fp16 = on_a_gpu.speeds.pop("fp16")
    assert on_a_gpu.start() == HostOverrides("fused", 1024)
    on_a_gpu.speeds["fp16"] = fp16
    assert on_a_gpu.start() == HostOverrides("fp16", 4096)


def test_a_variant_that_the_gpu_cannot_run_is_not_timed(on_a_gpu: OnAGpu, manifest: Manifest) -> None:
    bf16 = ("bf16", {"device": "cuda", "min_compute_capability": "9.0"})
    of_devices(manifest, ("fp16", {"device": "cuda"}), bf16).save(on_a_gpu.folder)
    on_a_gpu.speeds = {"fp16": Speed(1.0, 1024), "bf16": Speed(2.0, 1024)}
    assert on_a_gpu.start(L4) == HostOverrides("fp16", 1024)
    assert on_a_gpu.start(H100) == HostOverrides("bf16", 1024)


VNNI, AVX2 = ("avx2", "avx512f", "avx512_vnni"), ("avx2",)


def built_for(artifact: Path, monkeypatch: pytest.MonkeyPatch, *, vnni: bool, here: tuple[str, ...]) -> Path:
    """Make int8 the default, built for one kind of processor and timed on one like this host, and set this host's."""
    host = Host.here().model_copy(update={"instructions": here, "system": "Linux x86_64"})
    content = json.loads((artifact / "manifest.json").read_text(encoding="utf-8"))
    for variant in content["variants"]:
        if variant["name"] == "int8":
            variant["execution"]["reduce_range"] = not vnni
    changes = {"variants": content["variants"], "default_variant": "int8", "host": host.model_dump(mode="json")}
    reseal(artifact, changes)
    monkeypatch.setattr(Host, "here", lambda: host)
    return artifact


def logged(capfd: pytest.CaptureFixture[str], event: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines() if line.startswith("{")]
    return [line for line in lines if line["event"] == event]


@pytest.mark.parametrize(
    ("vnni", "here", "serves", "problem"),
    [
        (True, AVX2, "fp32", None),
        (False, VNNI, None, "7 bits"),
        (True, VNNI, None, None),
        (False, AVX2, None, None),
    ],
)
def test_int8_for_another_kind_of_processor_is_noticed(
    artifact: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    vnni: bool,
    here: tuple[str, ...],
    serves: str | None,
    problem: str | None,
) -> None:
    built_for(artifact, monkeypatch, vnni=vnni, here=here)
    logs.set_up()
    chosen = select_for_host(artifact, Settings()).variant
    assert chosen == serves
    warn_of_other_processor(load_manifest(artifact).variant(chosen))
    warnings = logged(capfd, "variant for another processor")
    assert [problem in line["problem"] for line in warnings] == ([True] if problem else [])


def test_int8_that_saturates_here_serves_with_a_warning_if_it_is_named_or_alone(
    artifact: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    built_for(artifact, monkeypatch, vnni=True, here=AVX2)
    logs.set_up()
    warn_of_other_processor(load_manifest(artifact).variant("int8"))
    (line,) = logged(capfd, "variant for another processor")
    assert (line["level"], line["variant"]) == ("warning", "int8")
    assert "saturate" in line["problem"]
    content = json.loads((artifact / "manifest.json").read_text(encoding="utf-8"))
    reseal(artifact, {"variants": [each for each in content["variants"] if each["name"] == "int8"]})
    assert select_for_host(artifact, Settings()) == HostOverrides()
