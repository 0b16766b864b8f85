"""Which variant serves, how many workers do, and on which GPU each of them."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from kit import ROOT
from kit.artifacts import of_devices
from kit.nvml import FakeGpu, FakeNvml, NVMLError

from tuneport.errors import EngineError
from tuneport.gpu import VISIBLE, Gpu
from tuneport.host import Host
from tuneport.runtime import availability
from tuneport.schema.artifact import Device, Execution, File, Manifest
from tuneport.stages.serve import logs
from tuneport.stages.serve.autotune import select_for_host
from tuneport.stages.serve.devices import (
    Placement,
    choose_variant,
    default_engines,
    default_workers,
    gpu_names,
    place_front_end,
    place_worker,
    warn_of_unfit_gpus,
)
from tuneport.stages.serve.metrics.families import Families
from tuneport.stages.serve.metrics.gpus import GpuCollector
from tuneport.stages.serve.metrics.model import Metrics
from tuneport.stages.serve.settings import Settings

MODEL = {"name": "tiny", "version": "1", "variant": "fp16"}
INSTANCES = {0: FakeGpu("MIG-1", gpu_instance=1), 1: FakeGpu("MIG-2", gpu_instance=2)}
H100 = Gpu(name="H100", compute_capability="9.0", memory_gib=80.0)


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> FakeNvml:
    """Two GPUs, and one that is split into two instances."""
    fake = FakeNvml(FakeGpu("GPU-a"), FakeGpu("GPU-b"), FakeGpu("GPU-c", mig_mode=1, instances=INSTANCES))
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    monkeypatch.delenv(VISIBLE, raising=False)
    return fake


@pytest.fixture(autouse=True)
def _restores_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", os.environ.copy())


def host(*gpus: Gpu, instructions: tuple[str, ...] = ("avx2", "avx512_vnni")) -> Host:
    return Host(cpu="a", cores=2, instructions=instructions, memory_gib=8.0, system="Linux x86_64", gpus=gpus)


def on(device: Device, **changes: Any) -> Execution:
    """Return an execution on a device."""
    file = File(path="onnx/fp16/model.onnx", sha256="0" * 64, size_bytes=2**20)
    return Execution(engine="onnxruntime", precision="fp16", device=device, files=(file,), **changes)


@pytest.mark.parametrize(
    ("visible", "names"),
    [
        (None, ["GPU-a", "GPU-b", "MIG-1", "MIG-2"]),
        ("1,0", ["GPU-b", "GPU-a"]),
        ("GPU-b", ["GPU-b"]),
        ("MIG-2,MIG-1", ["MIG-2", "MIG-1"]),
        ("2", ["MIG-1", "MIG-2"]),
    ],
)
def test_workers_take_the_visible_gpus_in_turn(nvml: FakeNvml, visible: str | None, names: list[str]) -> None:
    for worker in range(1, 2 * len(names) + 2):
        os.environ.pop(VISIBLE, None)
        if visible is not None:
            os.environ[VISIBLE] = visible
        assert default_workers(on("cuda")) == len(names)
        name = names[(worker - 1) % len(names)]
        assert place_worker(on("cuda"), worker) == Placement(worker, name, tuple(names))
        assert os.environ[VISIBLE] == name


def test_a_variant_for_the_cpu_leaves_the_gpus_alone(nvml: FakeNvml) -> None:
    assert default_workers(on("cpu")) == 1
    assert default_engines(on("cpu"), 8, "text-classification") == 0
    assert place_worker(on("cpu"), 2) == Placement(2, "cpu", ())
    assert VISIBLE not in os.environ
    assert nvml.calls == []


UNLIKE = (
    FakeGpu("GPU-old", name="T4", capability=(7, 5), memory=15 * 2**30),
    FakeGpu("GPU-a"),
    FakeGpu("GPU-small", name="A2", capability=(8, 6), memory=15 * 2**30),
    FakeGpu("GPU-b"),
)
"""Only the second and the last run variants in bf16 that need 20 GiB."""


@pytest.fixture
def unlike(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml(*UNLIKE))
    monkeypatch.delenv(VISIBLE, raising=False)


def test_gpus_that_cannot_run_the_variant_get_no_worker(unlike: None) -> None:
    demanding = on("cuda", min_compute_capability="8.0", streams=20480)  # 20 GiB of weights
    names = ("GPU-a", "GPU-b")
    assert default_workers(demanding) == 2
    assert default_engines(demanding, 3, "text-classification") == 2
    assert place_front_end(demanding, 1).gpus == names
    for worker, name in enumerate((*names, *names), 1):
        os.environ.pop(VISIBLE, None)
        assert place_worker(demanding, worker) == Placement(worker, name, names)
    os.environ.pop(VISIBLE, None)
    assert gpu_names(on("cuda", min_compute_capability="8.0")) == ("GPU-a", "GPU-small", "GPU-b")
    assert default_workers(on("cuda")) == 4


def test_the_service_says_which_gpus_it_leaves_out_and_why(
    unlike: None, manifest: Manifest, capfd: pytest.CaptureFixture[str]
) -> None:
    logs.set_up()
    variants = of_devices(manifest, BF16, FP16)
    warn_of_unfit_gpus(variants.variant("fp16"))
    warn_of_unfit_gpus(variants.variant("bf16"))
    lines = map(json.loads, capfd.readouterr().err.splitlines())  # an earlier test's service may still write its own
    [line] = [each for each in lines if each["event"] == "GPUs left out"]
    assert line["variant"] == "bf16"
    assert line["because"] == ["needs compute capability 8.0, and T4 has 7.5"]
    assert "TUNEPORT_VARIANT" in line["remedy"]


@pytest.mark.parametrize(
    ("executions", "name"),
    [
        ([on("cuda")], "GPU-old"),
        ([on("cuda"), on("cuda", min_compute_capability="8.0"), on("cpu")], "GPU-a"),
        ([on("cuda", min_compute_capability="10.0")], None),  # opening it says what the GPU lacks
        ([on("cpu")], None),
    ],
)
def test_a_command_opens_several_variants_on_the_first_gpu_that_can_run_all(
    unlike: None, executions: list[Execution], name: str | None
) -> None:
    availability.use_fit_gpu(*executions)
    assert os.environ.get(VISIBLE) == name


@pytest.mark.parametrize(
    ("visible", "changes", "words"),
    [
        ("0", {"min_compute_capability": "8.0"}, "needs compute capability 8.0, and T4 has 7.5"),
        ("2,0", {"streams": 20480}, "needs more than 20.0 GiB of GPU memory for its weights, and A2 has 15 GiB"),
    ],
)
def test_where_no_gpu_can_run_the_variant_a_worker_says_why(
    unlike: None, visible: str, changes: dict[str, Any], words: str
) -> None:
    """As for a variant that is named, which no other one replaces."""
    os.environ[VISIBLE] = visible
    with pytest.raises(EngineError, match=words):
        place_worker(on("cuda", **changes), 1)


@pytest.mark.parametrize(("workers", "engines"), [(1, 0), (4, 0), (5, 4), (9, 4)])
def test_more_workers_than_gpus_share_an_engine_for_each(nvml: FakeNvml, workers: int, engines: int) -> None:
    assert default_engines(on("cuda"), workers, "text-classification") == engines
    assert default_engines(on("cuda"), workers, "translation") == 0


def test_a_worker_that_shares_an_engine_leaves_the_gpus_to_it_and_reports_them(nvml: FakeNvml) -> None:
    names = ("GPU-a", "GPU-b", "MIG-1", "MIG-2")
    assert place_front_end(on("cuda"), 2) == Placement(2, "cuda", names, has_engine=False)
    assert place_front_end(on("cpu"), 2) == Placement(2, "cpu", (), has_engine=False)
    assert VISIBLE not in os.environ


@pytest.mark.parametrize(
    ("visible", "words"),
    [("0,7", "'0,7', and this host has no GPU '7'"), ("GPU-x", "no GPU 'GPU-x'"), ("-1", "no GPU")],
)
def test_a_gpu_that_is_not_there_is_an_error(nvml: FakeNvml, visible: str, words: str) -> None:
    os.environ[VISIBLE] = visible
    with pytest.raises(EngineError, match=words):
        place_worker(on("cuda"), 1)


def test_without_nvml_the_entries_are_taken_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container that has the driver's libraries for computing alone."""
    monkeypatch.setitem(sys.modules, "pynvml", None)
    os.environ[VISIBLE] = "1, MIG-7"
    assert gpu_names(on("cuda")) == ("1", "MIG-7")
    assert place_worker(on("tensorrt"), 2).device == "MIG-7"
    del os.environ[VISIBLE]
    assert default_workers(on("cuda")) == 1
    assert default_engines(on("cuda"), 2, "text-classification") == 1
    assert place_worker(on("cuda"), 1) == Placement(1, "cuda")


def test_outside_of_a_worker_the_first_gpu_is_taken(nvml: FakeNvml) -> None:
    assert place_worker(on("cuda"), None) == Placement(1, "GPU-a", ("GPU-a", "GPU-b", "MIG-1", "MIG-2"))


def samples(collector: GpuCollector) -> dict[tuple[str, str], float]:
    """Return the value of each gauge by its name and the GPU's UUID."""
    return {
        (sample.name.removeprefix("tuneport_gpu_"), sample.labels["uuid"]): sample.value
        for family in collector.collect()
        for sample in family.samples
    }


def test_each_gpu_has_its_gauges(nvml: FakeNvml) -> None:
    found = samples(GpuCollector(["GPU-a", "GPU-b"]))
    assert found == {
        (name, uuid): value
        for uuid in ("GPU-a", "GPU-b")
        for name, value in {
            "utilization_ratio": 0.5,
            "memory_used_bytes": 2**30,
            "memory_total_bytes": 80 * 2**30,
            "power_watts": 350.5,
        }.items()
    }
    assert nvml.opened == 0


def test_an_instance_has_what_nvml_says_of_it(nvml: FakeNvml) -> None:
    assert {name for name, _ in samples(GpuCollector(["MIG-1"]))} == {"memory_used_bytes", "memory_total_bytes"}


def test_a_gpu_that_is_gone_is_left_out(nvml: FakeNvml) -> None:
    assert {uuid for _, uuid in samples(GpuCollector(["GPU-x", "GPU-b"]))} == {"GPU-b"}


@pytest.mark.parametrize("workers", [1, 2])
def test_the_page_has_the_gpus_and_lives_without_nvml(
    nvml: FakeNvml, monkeypatch: pytest.MonkeyPatch, workers: int, tmp_path: Path
) -> None:
    os.environ["TUNEPORT_METRICS_FOLDER"] = str(tmp_path)
    metrics = Metrics(MODEL, Families(processes=workers), Placement(1, "GPU-b", ("GPU-a", "GPU-b")))
    labels = 'gpu="1",name="NVIDIA H100 80GB HBM3",uuid="GPU-b"'
    assert f"tuneport_gpu_memory_used_bytes{{{labels}}} 1.073741824e+09" in metrics.page()[0].decode()

    def fail(*_: Any) -> None:
        raise NVMLError("GPU is lost")

    monkeypatch.setattr(nvml, "nvmlDeviceGetHandleByUUID", fail, raising=False)
    assert "tuneport_gpu_" not in metrics.page()[0].decode()
    monkeypatch.setitem(sys.modules, "pynvml", None)
    page = metrics.page()[0].decode()
    assert "tuneport_gpu_" not in page


def test_an_engine_s_metrics_name_its_worker_and_device() -> None:
    metrics = Metrics(MODEL, Families(), Placement(3, "GPU-b"))
    assert metrics.engine
    metrics.engine.waiting(7)
    metrics.engine.halved()
    page = metrics.page()[0].decode()
    labels = 'device="GPU-b",model_name="tiny",model_variant="fp16",model_version="1",worker="3"'
    for line in ("queue_inputs{%s} 7.0", "halved_batches_total{%s} 1.0", "batches_total{%s} 0.0"):
        assert f"tuneport_{line % labels}" in page


FP16 = ("fp16", {"device": "cuda", "precision": "fp16"})
TENSORRT = ("tensorrt-fp16", {"device": "tensorrt", "precision": "fp16"})
T4 = H100.model_copy(update={"compute_capability": "7.5", "name": "T4", "memory_gib": 14.6})
BF16 = ("bf16", {"device": "cuda", "precision": "bf16", "min_compute_capability": "8.0"})
TEN_GIB = File(path="onnx/large/model.onnx", sha256="0" * 64, size_bytes=10 * 2**30)
LARGE = ("large", {"device": "cuda", "files": (TEN_GIB,), "streams": 2})
INT8 = ("int8", {"precision": "int8"})
OPENVINO = ("openvino-bf16", {"engine": "openvino", "precision": "bf16"})
FP32 = ("fp32", {})
CUDA = ("CUDAExecutionProvider", "CPUExecutionProvider")


@pytest.mark.parametrize(
    ("variants", "gpus", "providers", "device", "serves", "because"),
    [
        ((FP16, FP32, INT8), (H100,), CUDA, None, "fp16", None),
        ((FP16, FP32, INT8), (), CUDA, None, "int8", "fp16 needs an NVIDIA GPU, and none is visible"),
        ((FP16, FP32), (H100,), CUDA[1:], None, "fp32", "fp16 needs CUDAExecutionProvider, which this"),
        ((FP16, FP32), (H100,), CUDA, "cpu", "fp32", "TUNEPORT_DEVICE is cpu"),
        ((FP32, FP16), (H100,), CUDA, "cuda", "fp16", "TUNEPORT_DEVICE is cuda"),
        ((FP32, FP16), (H100,), CUDA, None, "fp32", None),
        ((OPENVINO, FP32), (), CUDA, None, "fp32", "openvino-bf16 needs a processor with bfloat16 instructions"),
        ((BF16, FP16), (T4,), CUDA, None, "fp16", "bf16 needs compute capability 8.0, and T4 has 7.5"),
        ((FP16, FP32), (H100.model_copy(update={"compute_capability": "7.0", "name": "V100"}),), CUDA, None, "fp32",
         "fp16 needs compute capability 7.5, and V100 has 7.0"),
        ((BF16, FP16), (T4, H100), CUDA, None, "bf16", None),  # on the second one alone
        ((LARGE, FP16), (T4,), CUDA, None, "fp16",
         "large needs more than 20.0 GiB of GPU memory for its weights, and T4 has 14.6 GiB"),
        ((LARGE, FP16), (T4, H100), CUDA, None, "large", None),
        ((TENSORRT, FP16), (H100,), (*CUDA, "TensorrtExecutionProvider"), None, "fp16",
         "tensorrt-fp16 needs TensorRT's libraries: install tuneport[tensorrt]"),
    ],
)  # fmt: skip
def test_a_variant_that_runs_here_serves_and_says_why(
    manifest: Manifest,
    monkeypatch: pytest.MonkeyPatch,
    variants: tuple[Any, ...],
    gpus: tuple[Gpu, ...],
    providers: tuple[str, ...],
    device: Any,
    serves: str,
    because: str | None,
) -> None:
    monkeypatch.setattr(availability, "_providers", lambda: providers)
    choice = choose_variant(of_devices(manifest, *variants), Settings(device=device), host(*gpus))
    assert choice.variant.name == serves
    assert (choice.because or "").startswith(because or "") if because else choice.because is None


def test_tensorrt_serves_where_its_libraries_are_and_nvml_names_the_gpu(
    manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(availability, "_providers", lambda: (*CUDA, "TensorrtExecutionProvider"))
    monkeypatch.setattr(availability, "has_tensorrt", lambda: True)
    variants = of_devices(manifest, TENSORRT, FP16)
    assert choose_variant(variants, Settings(), host(H100)).variant.name == "tensorrt-fp16"
    monkeypatch.setattr(availability, "has_unnamed_gpu", lambda: True)
    choice = choose_variant(variants, Settings(), host())
    assert choice.variant.name == "fp16"
    assert (choice.because or "").startswith("tensorrt-fp16 needs NVML")


def test_without_nvml_a_variant_for_cuda_serves(manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container without the driver's utilities, whose workers are placed by CUDA_VISIBLE_DEVICES or CUDA."""
    monkeypatch.setattr(availability, "_providers", lambda: CUDA)
    monkeypatch.setattr(availability, "has_unnamed_gpu", lambda: True)
    assert choose_variant(of_devices(manifest, FP16, FP32), Settings(), host()).because is None


def test_int8_for_processors_with_vnni_gives_way_where_it_would_overflow(manifest: Manifest) -> None:
    old = host(instructions=("avx2",))
    choice = choose_variant(of_devices(manifest, INT8, FP32), Settings(), old)
    assert (choice.variant.name, choice.because) == (
        "fp32",
        "int8 was made for processors with VNNI, without which its sums overflow",
    )
    reduced = ("int8", {"precision": "int8", "reduce_range": True})
    assert choose_variant(of_devices(manifest, reduced, FP32), Settings(), old).variant.name == "int8"


def test_a_variant_that_is_named_is_taken_at_its_word(manifest: Manifest) -> None:
    assert choose_variant(of_devices(manifest, FP32, FP16), Settings(variant="fp16"), host()).variant.name == "fp16"


def test_an_artifact_of_which_nothing_runs_here_says_why(manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(availability, "_providers", lambda: CUDA)
    with pytest.raises(EngineError, match=r"no variant of tiny runs here: fp16 needs an NVIDIA GPU.*, and bf16 needs"):
        choose_variant(of_devices(manifest, FP16, BF16), Settings(), host())
    with pytest.raises(EngineError, match="no variant is for tensorrt: fp32 is for cpu, fp16 is for cuda"):
        choose_variant(of_devices(manifest, FP32, FP16), Settings(device="tensorrt"), host())


def test_the_start_of_a_service_picks_the_variant_and_logs_why(
    artifact: Path, manifest: Manifest, capfd: pytest.CaptureFixture[str]
) -> None:
    of_devices(manifest, FP16, FP32).save(artifact)
    logs.set_up()
    assert select_for_host(artifact, Settings()).variant == "fp32"
    [line] = [line for line in capfd.readouterr().err.splitlines() if "variant selected" in line]
    assert '"serves":"fp32","because":"fp16 needs CUDAExecutionProvider' in line


def test_memory_settings_become_provider_options() -> None:
    from tuneport.runtime.backends.session import providers_for

    options = Settings(gpu_memory_gib=1.5, gpu_arena_strategy="kSameAsRequested").device_options()
    cuda = {"gpu_mem_limit": str(3 * 2**29), "arena_extend_strategy": "kSameAsRequested"}
    assert options.for_each(3).gpu_memory_bytes == 2**29
    assert providers_for("cpu", {}, options) == [("CPUExecutionProvider", {})]
    assert providers_for("cuda", {"use_tf32": "0", "gpu_mem_limit": "1"}, options) == [
        ("CUDAExecutionProvider", {"use_tf32": "0", **cuda})
    ]
    assert providers_for("tensorrt", {"trt_fp16_enable": "True"}, options) == [
        ("TensorrtExecutionProvider", {"trt_fp16_enable": "True"}),
        ("CUDAExecutionProvider", cuda),
    ]
    assert providers_for("cuda", {"use_tf32": "0"}, Settings().device_options()) == [
        ("CUDAExecutionProvider", {"use_tf32": "0"})
    ]


@pytest.mark.parametrize(
    ("device", "environment", "workers", "engines"),
    [
        ("cuda", {}, 3, 0),
        ("cuda", {VISIBLE: "GPU-c,1"}, 2, 0),
        ("cuda", {"TUNEPORT_WORKERS": "5"}, 5, 3),
        ("cpu", {}, 1, 0),
    ],
)
def test_a_service_on_gpus_has_a_worker_for_each_and_more_of_them_share_an_engine_for_each(
    artifact: Path,
    manifest: Manifest,
    tmp_path: Path,
    device: str,
    environment: dict[str, str],
    workers: int,
    engines: int,
) -> None:
    """What BentoML's supervisor is told when it imports the service, in a process of its own."""
    of_devices(manifest, ("fp32", {"device": device})).save(artifact)
    script = f"""
import sys
from pathlib import Path
from kit.nvml import FakeGpu, FakeNvml
sys.modules["pynvml"] = FakeNvml(FakeGpu("GPU-a"), FakeGpu("GPU-b"), FakeGpu("GPU-c"))
from tuneport.runtime import availability
availability._providers = lambda: ("CUDAExecutionProvider",)
from tuneport.stages.serve.bento import register
register(Path({str(artifact)!r}))
from tuneport.stages.serve.service import Tuneport, settings
print(Tuneport.config["workers"], settings.engine_count)
"""
    inherited = {name: value for name, value in os.environ.items() if name != VISIBLE}
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**inherited, **environment, "BENTOML_HOME": str(tmp_path), "PYTHONPATH": str(ROOT / "tests")},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.splitlines()[-1:] == [f"{workers} {engines}"], done.stderr
