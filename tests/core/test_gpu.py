"""NVIDIA GPUs through NVML: which are visible, and what is recorded of them."""

import os
import subprocess
import sys

import pytest
from kit.engines import wait_until
from kit.nvml import FakeGpu, FakeNvml

from tuneport.gpu import (
    VISIBLE,
    GpuMeter,
    GpuUsage,
    has_unnamed_gpu,
    memory_in_use,
    nvidia_driver,
    selection,
    unknown_entry,
    use_first_gpu,
    visible_gpus,
)
from tuneport.host import Host

INSTANCES = {
    0: FakeGpu("MIG-1111", "NVIDIA H100 MIG 1g.10gb", memory=10 * 2**30, gpu_instance=1, compute_instance=1),
    3: FakeGpu("MIG-2222", "NVIDIA H100 MIG 3g.40gb", memory=40 * 2**30, gpu_instance=1, compute_instance=10),
}
WHOLE = FakeGpu("GPU-aa11"), FakeGpu("GPU-aa22"), FakeGpu("GPU-bb33", mig_mode=None)
SPLIT = FakeGpu("GPU-cc44", mig_mode=1, instances=INSTANCES)


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> FakeNvml:
    fake = FakeNvml(*WHOLE, SPLIT)
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    monkeypatch.delenv(VISIBLE, raising=False)
    return fake


@pytest.mark.parametrize(
    ("visible", "uuids"),
    [
        (None, ["GPU-aa11", "GPU-aa22", "GPU-bb33", "MIG-1111", "MIG-2222"]),
        ("", []),
        ("-1", []),
        ("2,0", ["GPU-bb33", "GPU-aa11"]),
        (" 1 , 0 ", ["GPU-aa22", "GPU-aa11"]),
        ("0,9,1", ["GPU-aa11"]),  # what follows an invalid one does not count
        ("0,-1,1", ["GPU-aa11"]),
        ("0,,1", ["GPU-aa11"]),
        ("0,1,0", []),  # a repeated one leaves none
        ("3", ["MIG-1111", "MIG-2222"]),
        ("GPU-aa22,GPU-b", ["GPU-aa22", "GPU-bb33"]),
        ("GPU-bb33,GPU-aa", ["GPU-bb33"]),  # GPU-aa are two
        ("GPU-bb33,GPU-b", []),
        ("GPU-ff", []),
        ("MIG-2222", ["MIG-2222"]),
        ("MIG-2222,MIG-1111", ["MIG-2222", "MIG-1111"]),
        ("MIG-GPU-cc44/1/10", ["MIG-2222"]),
        ("MIG-GPU-cc44/1/1", ["MIG-1111"]),
        ("MIG-GPU-cc44/7/0", []),
        ("some", []),
    ],
)
def test_visible_gpus_are_those_of_cuda(
    nvml: FakeNvml, monkeypatch: pytest.MonkeyPatch, visible: str | None, uuids: list[str]
) -> None:
    if visible is not None:
        monkeypatch.setenv(VISIBLE, visible)
    assert [gpu.uuid for gpu in visible_gpus()] == uuids
    assert nvml.opened == 0  # closed as often as opened


def test_an_instance_has_its_own_memory_and_the_clocks_of_its_gpu(nvml: FakeNvml) -> None:
    whole, *_, instance = visible_gpus()
    assert (whole.name, whole.memory_gib, whole.is_mig) == ("NVIDIA H100 80GB HBM3", 80.0, False)
    assert (instance.name, instance.memory_gib, instance.is_mig) == ("NVIDIA H100 MIG 3g.40gb", 40.0, True)
    for gpu in (whole, instance):
        assert (gpu.compute_capability, gpu.power_limit_w) == ("9.0", 700.0)
        assert (gpu.max_sm_clock_mhz, gpu.max_memory_clock_mhz) == (1980, 2619)


def test_the_host_records_driver_and_gpus(nvml: FakeNvml, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VISIBLE, "1")
    host = Host.here()
    assert (host.driver, host.cuda) == ("590.44.01", "13.1")
    assert [gpu.uuid for gpu in host.gpus] == ["GPU-aa22"]
    assert Host.model_validate_json(host.model_dump_json()) == host


def test_without_a_driver_there_is_no_gpu() -> None:
    """The real pynvml, which finds no library on a machine without a driver; where there is one, it is not asked."""
    code = "import ctypes; ctypes.CDLL = None; from tuneport.host import Host; print(Host.here().gpus)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "()\n"


def test_without_the_package_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert visible_gpus() == ()
    assert nvidia_driver() is None


@pytest.mark.parametrize(
    ("visible", "entry"),
    [
        (None, None),
        ("", None),
        ("-1", None),
        ("3,GPU-b,MIG-1111", None),
        ("0,7,1", "7"),
        ("GPU-aa", "GPU-aa"),  # two begin so
        ("MIG-9", "MIG-9"),
        ("1,some", "some"),
    ],
)
def test_an_entry_that_is_no_gpu_is_found(
    nvml: FakeNvml, monkeypatch: pytest.MonkeyPatch, visible: str | None, entry: str | None
) -> None:
    if visible is not None:
        monkeypatch.setenv(VISIBLE, visible)
    assert unknown_entry() == entry


def test_the_memory_in_use_is_that_of_the_gpu_that_cuda_opens(nvml: FakeNvml, monkeypatch: pytest.MonkeyPatch) -> None:
    WHOLE[1].used, before = 7 * 2**20, WHOLE[1].used
    monkeypatch.setenv(VISIBLE, "1,0")
    assert memory_in_use() == 7 * 2**20
    WHOLE[1].used = before
    monkeypatch.setenv(VISIBLE, "")
    assert memory_in_use() is None
    monkeypatch.setitem(sys.modules, "pynvml", None)
    monkeypatch.delenv(VISIBLE)
    assert memory_in_use() is None
    assert nvml.opened == 0


UNLIKE = FakeGpu("GPU-old", name="T4", capability=(7, 5)), FakeGpu("GPU-new"), FakeGpu("GPU-newer")


@pytest.mark.parametrize(
    ("gpus", "required", "visible", "left"),
    [
        (UNLIKE, "7.5", None, "GPU-old"),  # CUDA's own first one is the fastest
        (UNLIKE, "8.0", None, "GPU-new"),
        (UNLIKE, "8.0", "2,0", "GPU-newer"),
        (UNLIKE, "10.0", None, None),  # opening one says what it lacks
        (UNLIKE[1:], "8.0", None, None),  # alike: CUDA counts them as NVML does
        (UNLIKE[1:], "8.0", "2,1", "2,1"),
        (UNLIKE, "7.5", "0", "GPU-old"),
        ((), "8.0", None, None),
    ],
)
def test_among_unlike_gpus_cuda_gets_the_first_that_suits(
    monkeypatch: pytest.MonkeyPatch,
    gpus: tuple[FakeGpu, ...],
    required: str,
    visible: str | None,
    left: str | None,
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml(*gpus))
    monkeypatch.setattr(os, "environ", os.environ.copy())
    os.environ.pop(VISIBLE, None)
    if visible is not None:
        os.environ[VISIBLE] = visible
    use_first_gpu(lambda gpu: gpu.has(required))
    assert os.environ.get(VISIBLE) == left


def test_a_gpu_without_kernels_suits_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    old = FakeGpu("GPU-oldest", name="V100", capability=(7, 0))
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml(old, *UNLIKE))
    monkeypatch.setattr(os, "environ", os.environ.copy())
    os.environ.pop(VISIBLE, None)
    use_first_gpu()
    assert os.environ[VISIBLE] == "GPU-old"


@pytest.mark.parametrize(
    ("driver", "visible", "has_one"),
    [("libc.so.6", None, True), ("libc.so.6", "0", True), ("libc.so.6", "", False), ("libc.so.6", "-1", False),
     ("libnothing.so", None, False)],
)  # fmt: skip
def test_without_nvml_cuda_may_find_a_gpu_that_has_no_name(
    monkeypatch: pytest.MonkeyPatch, driver: str, visible: str | None, has_one: bool
) -> None:
    """With a library in the place of CUDA's driver."""
    monkeypatch.setattr(selection, "CUDA_DRIVER", driver)
    monkeypatch.setitem(sys.modules, "pynvml", None)
    monkeypatch.delenv(VISIBLE, raising=False)
    if visible is not None:
        monkeypatch.setenv(VISIBLE, visible)
    assert has_unnamed_gpu() == has_one


def test_where_nvml_answers_it_names_every_gpu(nvml: FakeNvml, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection, "CUDA_DRIVER", "libc.so.6")
    assert not has_unnamed_gpu()


def test_a_meter_adds_up_memory_utilization_and_energy_of_each_model(nvml: FakeNvml) -> None:
    gpu, mib = WHOLE[1], 2**20
    meter = GpuMeter(visible_gpus()[1], interval_s=0.001)
    before = gpu.used
    with meter.measure("a"):
        gpu.used += 100 * mib
    with meter.measure("b"):
        gpu.used += 7 * mib
    for _ in range(2):
        with meter.measure("a") as totals:
            gpu.used += 30 * mib
            polls = len(totals.utilizations)
            wait_until(lambda: len(totals.utilizations) >= polls + 2)  # noqa: B023 -- it is over before the next round
            gpu.used -= 30 * mib  # the peak counts
            gpu.energy_mj = (gpu.energy_mj or 0) + 500
            totals.texts += 200
    a, b = meter.usage("a"), meter.usage("b")
    assert a == GpuUsage(memory_mib=160.0, utilization=0.5, energy_j_per_1000_texts=2.5)
    assert (b.memory_mib, b.energy_j_per_1000_texts) == (7.0, None)  # no text was run
    assert nvml.opened == 0
    gpu.used = before


def test_an_instance_has_memory_and_neither_energy_nor_utilization(nvml: FakeNvml) -> None:
    meter = GpuMeter(visible_gpus()[-1], interval_s=0.001)
    with meter.measure("a") as totals:
        wait_until(lambda: nvml.calls.count("nvmlDeviceGetUtilizationRates") >= 2)
        totals.texts += 1
    assert meter.usage("a") == GpuUsage(memory_mib=0.0)


def test_a_meter_of_memory_alone_counts_neither_energy_nor_utilization(nvml: FakeNvml) -> None:
    """Opening a model takes energy, which is not that of its texts."""
    gpu, before = WHOLE[0], WHOLE[0].used
    meter = GpuMeter(visible_gpus()[0], interval_s=0.001)
    with meter.measure("a", only_memory=True) as totals:
        gpu.used += 2**20
        gpu.energy_mj = (gpu.energy_mj or 0) + 500
        polls = nvml.calls.count("nvmlDeviceGetMemoryInfo")
        wait_until(lambda: nvml.calls.count("nvmlDeviceGetMemoryInfo") >= polls + 2)
        totals.texts += 1
    gpu.used = before
    assert meter.usage("a") == GpuUsage(memory_mib=1.0)


def test_without_a_gpu_a_meter_measures_nothing() -> None:
    meter = GpuMeter()
    with meter.measure("a") as totals:
        totals.texts += 1
    assert meter.usage("a") == meter.usage("never measured") == GpuUsage()
