"""`tuneport doctor`: what it finds of the machine, the engines, the packages and the environment."""

import json
import socket
from pathlib import Path

import pytest
from kit.command import tuneport
from packaging.requirements import Requirement

from tuneport.cli.doctor import INDENT, fit
from tuneport.doctor import environment, machine, packages
from tuneport.doctor.engines import Probe, run_probe
from tuneport.doctor.findings import Finding
from tuneport.doctor.probe import GRAPH, check_cuda_builds, onnxruntime_cuda
from tuneport.errors import EngineError
from tuneport.gpu import Gpu
from tuneport.host import Host

HOST = Host(cpu="some", cores=2, instructions=("avx2",), memory_gib=8, system="Linux x86_64")
GPU = Gpu(name="some GPU", compute_capability="9.0", memory_gib=80)


def test_a_working_environment_passes_with_every_installed_engine_tried() -> None:
    answer = tuneport("doctor", "--json")
    report = json.loads(answer.out)
    found = {each["name"]: each for each in report["findings"]}
    assert (answer.code, report["ok"]) == (0, True), report
    assert found["onnxruntime on cpu"]["found"].endswith("CPUExecutionProvider")
    assert {"processor", "memory", "python", "versions", "torch on cpu", "HTTP port", "service"} <= found.keys()
    assert [each for each in report["findings"] if each["status"] in ("warning", "error") and not each["remedy"]] == []


def test_what_prevents_commands_gives_exit_code_1_and_a_remedy_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "file" / "bentoml"))
    monkeypatch.setenv("TUNEPORT_COLOUR", "red")
    monkeypatch.setenv("OMP_NUM_THREADS", "4096")
    answer = tuneport("doctor")
    assert answer.code == 1
    unbroken = answer.out.replace(f"\n{INDENT}", " ").splitlines()
    lines = {line.partition(": ")[0].split(maxsplit=1)[1]: line for line in unbroken}
    assert lines["BentoML home"].startswith("error ")
    assert lines["BentoML home"].endswith("(Not a directory); set BENTOML_HOME to a folder that can be written")
    assert "TUNEPORT_COLOUR: no setting of that name; correct or unset them" in lines["service"]
    assert "OMP_NUM_THREADS=4096, and " in lines["threads"]
    assert lines["onnxruntime on cpu"].startswith("ok ")
    assert [line for line in answer.out.splitlines() if len(line) > 80 and " " in line.strip()] == []


def test_a_long_finding_is_broken_at_the_width_of_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    words = "warning processor: " + "avx512f " * 20
    for columns in (60, 80):
        monkeypatch.setenv("COLUMNS", str(columns))
        first, *others = fit(words).splitlines()
        assert first.startswith("warning processor: avx512f")
        assert others
        assert all(line.startswith(f"{INDENT}avx512f") for line in others)
        assert all(len(line) <= columns for line in (first, *others))
        assert " ".join([first, *(line.strip() for line in others)]) == words.strip()


@pytest.mark.parametrize("runtime", ["13.0", "13.1", None])
def test_torch_and_onnxruntime_for_one_cuda_go_together(runtime: str | None) -> None:
    check_cuda_builds("2.11.0", "13.0", runtime)


def test_torch_for_another_cuda_than_onnxruntime_is_found() -> None:
    """Their packages of cuDNN would replace each other's files."""
    with pytest.raises(EngineError, match=r"torch 2.8 is built for CUDA 12.8, and ONNX Runtime for CUDA 13.0.*CUDA 13"):
        check_cuda_builds("2.8", "12.8", "13.0")
    assert onnxruntime_cuda() is None  # the package for processors alone


def test_the_probes_graph_is_what_onnx_writes() -> None:
    from onnx import TensorProto, helper

    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [3]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"])], "double", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    assert model.SerializeToString() == GRAPH


def test_an_engine_that_crashes_hangs_or_lacks_its_provider_is_a_finding() -> None:
    crashed = run_probe(Probe("no-engine", "cpu", "error", "install it"))
    assert (crashed.status, crashed.found, crashed.remedy) == ("error", "KeyError: 'no-engine'", "install it")
    assert run_probe(Probe("onnxruntime", "cpu", "error", ""), timeout_s=0.01).found == "no answer in 0.01 s"
    without = run_probe(Probe("onnxruntime", "tensorrt", "warning", "")).line()
    assert without.startswith("warning onnxruntime on tensorrt: this onnxruntime has no TensorrtExecutionProvider; ")


def test_packages_that_are_missing_excluded_or_not_the_tested_ones() -> None:
    wanted = [Requirement("no-such-package>=1"), Requirement("numpy<1"), Requirement("typer>=0.1")]
    missing, wrong = packages.check_requirements(wanted)
    assert (missing.status, missing.found) == ("error", "no-such-package not installed")
    assert wrong.status == "warning"
    assert wrong.found.startswith("numpy ")
    assert wrong.found.endswith("and <1 is required")
    assert packages.check_pins({"numpy": "1.0"}, {"numpy"}).status == "warning"
    assert packages.check_pins({"numpy": "1.0"}, {"torch"}).status == "note"
    assert packages.check_pins({"numpy": "1.0"}, set()).remedy == "pip install numpy==1.0"
    assert packages.check_pins({"absent": "1.0"}, set()).status == "ok"
    assert packages.tested_versions()["torch"] == "2.13.0"
    assert packages.check_python("3.10.1").status == "error"


def _statuses(findings: list[Finding]) -> list[tuple[str, str]]:
    return [(each.name, each.status) for each in findings]


def test_gpus_drivers_and_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    old = HOST.model_copy(update={"gpus": (GPU,), "driver": "550.1", "cuda": "12.4"})
    assert _statuses([*machine.check_gpus(old, has_driver_files=True)]) == [("GPU", "ok"), ("driver", "warning")]
    weak = old.model_copy(
        update={"gpus": (GPU.model_copy(update={"compute_capability": "7.0"}),), "cuda": "13.0", "driver": None}
    )
    assert _statuses([*machine.check_gpus(weak, has_driver_files=True)]) == [("GPU", "warning"), ("driver", "ok")]
    both = weak.model_copy(update={"gpus": (*weak.gpus, GPU)})
    left_out, used, _ = machine.check_gpus(both, has_driver_files=True)
    assert "--device cpu" in next(machine.check_gpus(weak, has_driver_files=True)).remedy
    assert (left_out.status, used.status) == ("warning", "ok")
    assert "leave it out" in left_out.remedy
    assert _statuses([*machine.check_gpus(HOST, has_driver_files=True)]) == [("GPU", "warning")]
    assert _statuses([*machine.check_gpus(HOST, has_driver_files=False)]) == [("GPU", "ok")]
    assert _statuses([*machine.check_limits(256, 100)]) == [("limits", "warning"), ("limits", "warning")]
    assert _statuses([*machine.check_limits(-1, None)]) == []
    assert machine.check_memory(16.0, 1.0).status == "warning"
    assert machine.check_cores(2, 8).found.startswith("2 usable of 8")
    monkeypatch.setenv("OMP_NUM_THREADS", "all")
    assert [each.found for each in machine.check_thread_variables(2)] == ["OMP_NUM_THREADS=all is no number"]


def test_a_port_in_use_and_the_hubs_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        found = environment.check_port("HTTP", "127.0.0.1", taken.getsockname()[1], "--port")
    assert (found.status, found.remedy) == ("warning", "tuneport serve --port N")
    monkeypatch.setenv("HF_HUB_OFFLINE", "True")
    assert "HF_HUB_OFFLINE" in environment.check_hub().found
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.delenv("HF_DATASETS_OFFLINE")
    assert environment.check_hub().status == "ok"
    monkeypatch.setattr(environment, "FULL_GIB", 1e9)
    monkeypatch.setattr(environment, "LOW_GIB", 1e10)
    assert environment.check_folder("somewhere", Path("/tmp"), "").status == "error"
