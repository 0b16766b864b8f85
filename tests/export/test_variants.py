"""Which variants are selected for a device, a processor and data, and which are refused before any work."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest
from kit.encoders import LABELS
from kit.exports import Prepared, predict
from kit.reference import TorchReference

from tuneport.errors import TuneportError
from tuneport.host import Host
from tuneport.schema.artifact import Device
from tuneport.stages.export.applicable import select_variants
from tuneport.stages.export.build import Passed
from tuneport.stages.export.build_context import reduces_range
from tuneport.stages.export.config import ExportConfig
from tuneport.stages.export.pipeline import export
from tuneport.stages.export.variants import VARIANTS

TEXTS = ["bank", "the team won the game", "Größe 🙂"]
OPENVINO = ("openvino", "openvino-bf16", "openvino-int8")


def on_processor(*instructions: str) -> Host:
    return Host(cpu="test", cores=2, instructions=instructions, memory_gib=8, system="Linux x86_64")


def set_host(monkeypatch: pytest.MonkeyPatch, *, has_bf16: bool, packages: tuple[str, ...]) -> None:
    """Pretend that this host's processor has bf16 or not, and that of OpenVINO's packages some are installed."""
    monkeypatch.setattr(Host, "has_bf16", property(lambda _: has_bf16))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if name in packages else None)


@pytest.mark.parametrize(
    ("instructions", "asked", "device", "reduces"),
    [
        (("avx2",), None, "cpu", True),
        (("avx2", "avx512f"), None, "cpu", True),
        (("avx2", "avx_vnni"), None, "cpu", False),
        (("avx2", "avx512f", "avx512_vnni", "amx_int8"), None, "cpu", False),
        (("avx2",), "vnni", "cpu", False),
        (("avx2", "avx512_vnni"), "avx2", "cpu", True),
        (("avx2",), None, "cuda", False),
    ],
)
def test_int8_weights_get_seven_bits_for_processors_that_would_saturate(
    instructions: tuple[str, ...], asked: Any, device: Device, reduces: bool
) -> None:
    config = ExportConfig(checkpoint=Path("x"), instruction_set=asked, device=device)
    assert reduces_range(config, on_processor(*instructions)) == reduces
    arm = on_processor("asimddp").model_copy(update={"system": "Linux aarch64"})
    assert not arm.int8_saturates


def test_int8_for_a_processor_without_vnni_passes_its_gate_anywhere_and_records_it(
    prepared: Prepared, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Host, "here", lambda: on_processor("avx2"))
    builder = prepared.builder(tmp_path)
    passed = {name: builder.build_and_validate(name, VARIANTS[name]) for name in ("fp32", "int8")}
    fp32, int8 = passed["fp32"], passed["int8"]
    assert isinstance(fp32, Passed)
    assert isinstance(int8, Passed)
    assert int8.candidate.execution.reduce_range
    assert not fp32.candidate.execution.reduce_range
    predictions = predict(builder.runtime_task, builder.open(int8.candidate.execution), TEXTS)
    assert [each["label"] for each in predictions] == TorchReference(tiny_checkpoint).labels(TEXTS)
    assert {each["label"] for each in predictions} <= set(LABELS)


def test_variants_that_this_processor_cannot_run_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    set_host(monkeypatch, has_bf16=False, packages=("openvino", "nncf"))
    with pytest.raises(TuneportError, match="openvino-bf16 needs a processor with bfloat16"):
        select_variants(("openvino-bf16",), "cpu")
    without_bf16 = {"fp32", "int8", "openvino", "openvino-int8", "pruned-int8", "pruned-openvino-int8"}
    assert set(select_variants((), "cpu")) == without_bf16
    set_host(monkeypatch, has_bf16=True, packages=("openvino", "nncf"))
    assert set(select_variants((), "cpu")) == without_bf16 | {"openvino-bf16", "pruned-openvino-bf16"}


def test_variants_without_their_packages_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    set_host(monkeypatch, has_bf16=True, packages=())
    for name in OPENVINO:
        with pytest.raises(TuneportError, match=rf"{name} needs OpenVINO.*tuneport\[openvino\]"):
            select_variants((name,), "cpu")
    assert set(select_variants((), "cpu")) == {"fp32", "int8", "pruned-int8"}
    set_host(monkeypatch, has_bf16=True, packages=("openvino",))
    with pytest.raises(TuneportError, match=r"openvino-int8 needs NNCF.*tuneport\[export\]"):
        select_variants(("openvino-int8",), "cpu")
    assert set(select_variants((), "cpu")) == {
        "fp32", "int8", "openvino", "openvino-bf16", "pruned-int8", "pruned-openvino-bf16",
    }  # fmt: skip


def test_calibrated_variants_need_data() -> None:
    with pytest.raises(TuneportError, match="int8-static is calibrated on data"):
        select_variants(("int8-static",), "cpu", rows=0)


def test_fp32_is_the_first_variant_and_always_selected() -> None:
    assert list(select_variants((), "cpu"))[:2] == ["fp32", "int8"]
    assert list(select_variants(("int8",), "cpu")) == ["fp32", "int8"]


def test_fp16_is_for_cuda_and_needs_data() -> None:
    with pytest.raises(TuneportError, match="fp16 does not run on cpu"):
        select_variants(("fp16",), "cpu")
    assert list(select_variants((), "cuda")) == [
        "fp32", "fused", "fp16", "fp16-packed", "fp16-packed-mha", "bf16",
    ]  # fmt: skip
    assert list(select_variants((), "cuda", rows=0)) == ["fp32", "fused", "bf16"]


@pytest.mark.parametrize(
    ("variants", "device", "problem"),
    [(("int8",), "cuda", "int8 does not run on cuda"), (("fp32", "int3"), "cpu", "int3")],
)
def test_variants_that_cannot_be_built_are_refused_before_any_work(
    tmp_path: Path, variants: tuple[str, ...], device: str, problem: str
) -> None:
    config = ExportConfig.model_validate({"checkpoint": tmp_path / "nowhere", "variants": variants, "device": device})
    with pytest.raises(TuneportError, match=problem):
        export(config, tmp_path / "out")
