"""Serving on a real GPU: placement by UUID, metrics, and batches that do not fit into its memory."""

import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
from kit.texts import random_texts

from tuneport.gpu import visible_gpus
from tuneport.runtime.device_options import DeviceOptions
from tuneport.runtime.loading import open_runner
from tuneport.runtime.predictor import Predictor
from tuneport.runtime.scheduler import BATCH_TOKENS
from tuneport.schema.loading import load_manifest
from tuneport.stages.serve import autotune
from tuneport.stages.serve.bento import SERVICE, register, serve_command
from tuneport.stages.serve.metrics.gpus import READINGS, GpuCollector
from tuneport.stages.serve.process import free_port, running
from tuneport.stages.serve.settings import Settings

pytestmark = pytest.mark.gpu

ROWS = 4096
LIMIT_BYTES = 64 * 2**20


@pytest.fixture(scope="module")
def cuda_artifact(tiny_checkpoint: Path, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tuneport.stages.export.pipeline import ExportConfig, export

    out = tmp_path_factory.mktemp("cuda") / "tiny"
    config = ExportConfig(
        checkpoint=tiny_checkpoint, name="tiny", data=str(tiny_data), variants=("fp32", "fused"), device="cuda"
    )
    export(config, out)
    return out


def test_a_batch_that_does_not_fit_is_halved_with_the_same_outputs(cuda_artifact: Path) -> None:
    manifest = load_manifest(cuda_artifact)
    variant = manifest.variant("fp32")
    limited = open_runner(
        cuda_artifact, manifest, variant, device_options=DeviceOptions(LIMIT_BYTES, "kSameAsRequested")
    )
    texts = [text for text, _ in zip(random_texts(71), range(64), strict=False)]
    rows = [windows[0] for windows in limited.task.encode(texts)]
    expected = [outputs["logits"] for outputs in open_runner(cuda_artifact, manifest, variant).run(rows)]
    halved: list[int] = []
    limited.on_halved = lambda: halved.append(1)
    outputs = limited.run_batch(rows * (ROWS // len(rows)))
    assert halved
    for i, each in enumerate(outputs):
        np.testing.assert_allclose(each["logits"], expected[i % len(rows)], atol=1e-3)


def test_nvml_s_readings_are_those_of_the_gpus_that_are_used() -> None:
    uuids = [gpu.uuid for gpu in visible_gpus() if gpu.uuid]
    families = {family.name: family for family in GpuCollector(uuids).collect()}
    assert {f"tuneport_gpu_{reading.name}" for reading in READINGS[1:3]} <= families.keys()
    for sample in families["tuneport_gpu_memory_total_bytes"].samples:
        assert sample.labels["uuid"] in uuids
        assert sample.value > 2**30


def test_each_worker_serves_on_its_gpu(cuda_artifact: Path) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = serve_command(SERVICE, host="127.0.0.1", port=port, model=register(cuda_artifact))
    workers = max(2, len(visible_gpus()))  # on a single GPU two share it
    with running(command, url, {"TUNEPORT_WORKERS": str(workers), "PATH": os.environ["PATH"]}):
        for _ in range(20):
            assert httpx.post(f"{url}/predict", json={"inputs": ["bank", "team"]}, timeout=60).status_code == 200
        page = httpx.get(f"{url}/metrics", timeout=60).text
    lines = page.splitlines()
    for uuid in {gpu.uuid for gpu in visible_gpus()}:
        assert any(line.startswith("tuneport_queue_inputs{") and f'device="{uuid}"' in line for line in lines)
        assert any(line.startswith("tuneport_gpu_memory_used_bytes{") and f'uuid="{uuid}"' in line for line in lines)


def test_a_service_with_cuda_graphs_and_two_streams_answers_as_without(cuda_artifact: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(cuda_artifact, tmp_path / "captured"))
    texts = [text for text, _ in zip(random_texts(72), range(24), strict=False)]
    expected = [each["label"] for each in Predictor(folder, "fused").predict(texts)]
    manifest = load_manifest(folder)
    shapes = {"graph_shapes": ((1, 16), (1, 64), (8, 64)), "streams": 2}
    variant = manifest.variant("fused")
    captured = variant.model_copy(update={"execution": variant.execution.model_copy(update=shapes)})
    manifest.model_copy(update={"variants": (captured,), "default_variant": "fused"}).save(folder)
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = serve_command(SERVICE, host="127.0.0.1", port=port, model=register(folder))
    settings = {"TUNEPORT_WORKERS": "1", "TUNEPORT_VARIANT": "fused", "PATH": os.environ["PATH"]}

    def ask(text: str) -> str:
        answer = httpx.post(f"{url}/predict", json={"inputs": [text]}, timeout=60).raise_for_status().json()
        assert answer["model"]["variant"] == "fused"
        return str(answer["predictions"][0]["label"])

    with running(command, url, settings), ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, texts)) == expected


def test_two_models_with_cuda_graphs_are_opened_while_a_third_answers(cuda_artifact: Path) -> None:
    manifest = load_manifest(cuda_artifact)
    variant = manifest.variant("fused")
    execution = variant.execution.model_copy(update={"graph_shapes": ((1, 16), (4, 64)), "streams": 2})
    captured = variant.model_copy(update={"execution": execution})
    serving = open_runner(cuda_artifact, manifest, variant)
    texts = [text for text, _ in zip(random_texts(73), range(8), strict=False)]
    rows = [windows[0] for windows in serving.task.encode(texts)]
    expected = [outputs["logits"] for outputs in serving.run_batch(rows)]
    is_over = threading.Event()

    def serve() -> float:
        worst = 0.0
        while not is_over.is_set():
            found = [outputs["logits"] for outputs in serving.run_batch(rows)]
            worst = max(worst, *(float(np.abs(a - b).max()) for a, b in zip(found, expected, strict=True)))
        return worst

    with ThreadPoolExecutor(4) as pool:
        answers = pool.submit(serve)
        try:
            opened = [pool.submit(open_runner, cuda_artifact, manifest, captured) for _ in range(2)]
            for each in opened:
                for outputs, wanted in zip(each.result(120).run_batch(rows[:4]), expected, strict=False):
                    np.testing.assert_allclose(outputs["logits"], wanted, atol=1e-3)
        finally:
            is_over.set()
        assert answers.result(60) < 1e-3


def test_on_another_gpu_the_token_limit_is_measured_once(
    cuda_artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = Path(shutil.copytree(cuda_artifact, tmp_path / "elsewhere"))
    manifest = load_manifest(folder)
    other = visible_gpus()[0].model_copy(update={"name": "another"})
    manifest.model_copy(update={"host": manifest.host.model_copy(update={"gpus": (other,)})}).save(folder)
    measured: list[int] = []
    real = autotune.measure_apart
    monkeypatch.setattr(autotune, "measure_apart", lambda *arguments: measured.append(1) or real(*arguments))
    first, second = (autotune.select_for_host(folder, Settings()) for _ in range(2))
    assert first == second
    assert first.max_batch_tokens in BATCH_TOKENS["cuda"]
    assert measured == [1]
