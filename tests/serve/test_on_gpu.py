"""Serving on a real GPU: placement by UUID, metrics, and batches that do not fit into its memory."""

import os
from pathlib import Path

import httpx
import numpy as np
import pytest
from kit.texts import random_texts

from tuneport.gpu import visible_gpus
from tuneport.runtime.device_options import DeviceOptions
from tuneport.runtime.loading import open_runner
from tuneport.schema.loading import load_manifest
from tuneport.stages.serve.bento import SERVICE, register, serve_command
from tuneport.stages.serve.metrics.gpus import READINGS, GpuCollector
from tuneport.stages.serve.process import free_port, running

pytestmark = pytest.mark.gpu

ROWS = 4096
LIMIT_BYTES = 64 * 2**20


@pytest.fixture(scope="module")
def cuda_artifact(tiny_checkpoint: Path, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tuneport.stages.export.pipeline import ExportConfig, export

    out = tmp_path_factory.mktemp("cuda") / "tiny"
    config = ExportConfig(
        checkpoint=tiny_checkpoint, name="tiny", data=str(tiny_data), variants=("fp32",), device="cuda"
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
