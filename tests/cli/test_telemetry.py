"""No command looks up the name of another host, and libraries that would are told not to before they are imported."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from kit import ROOT, namespace

from tuneport import telemetry

OURS = {"localhost"}
SERVE_S = 75
"""onnxruntime's telemetry looks up its maker's host 40 seconds after the start."""


def environment(tmp_path: Path) -> dict[str, str]:
    """Return the environment of a user who has set nothing, with folders of the test's own."""
    set_here = (*telemetry.OFF, "HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "OTEL_SDK_DISABLED")
    kept = {name: value for name, value in os.environ.items() if name not in set_here}
    return {**kept, "BENTOML_HOME": str(tmp_path / "bentoml"), "HF_HOME": str(tmp_path / "hf"), "HOME": str(tmp_path)}


@pytest.mark.parametrize(
    ("asked", "left"),
    [("b3", "tracecontext"), ("b3, baggage,tracecontext", "baggage,tracecontext"), ("", "tracecontext")],
)
def test_propagators_that_are_not_installed_keep_nothing_from_starting(
    monkeypatch: pytest.MonkeyPatch, asked: str, left: str
) -> None:
    """OpenTelemetry fails at them when it is imported, which BentoML does in every process."""
    monkeypatch.setenv("OTEL_PROPAGATORS", asked)
    telemetry.drop_unknown_propagators()
    assert os.environ["OTEL_PROPAGATORS"] == left
    program = "import tuneport, os, opentelemetry.propagate; print(os.environ['OTEL_PROPAGATORS'])"
    environment = {**os.environ, "OTEL_PROPAGATORS": asked}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == left


def test_openvino_has_nothing_to_send_with(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    program = (
        "import tuneport, tuneport.runtime.backends.openvino\n"
        "from openvino.tools.ovc import telemetry_utils\n"
        "print(telemetry_utils.tm.__name__)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment(tmp_path), cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "openvino.tools.ovc.telemetry_stub"
    assert not (tmp_path / "intel").exists()


@pytest.mark.parametrize("module", ["tuneport", "tuneport.cli.app", "tuneport.stages.serve.inference"])
def test_telemetry_is_off_before_a_library_is_imported(module: str, tmp_path: Path) -> None:
    """An audit hook sees each import, and what the environment is at that time."""
    libraries = ["onnxruntime", "bentoml", "huggingface_hub", "nncf"]
    program = (
        "import os, sys\n"
        "def seen(event, arguments):\n"
        f"    if event == 'import' and arguments[0] in {libraries}:\n"
        f"        assert all(os.environ.get(name) for name in {list(telemetry.OFF)}), arguments[0]\n"
        "sys.addaudithook(seen)\n"
        f"import {module}\n"
        "import tuneport.runtime.backends.onnxruntime\n"
        f"print({{name: os.environ[name] for name in {list(telemetry.OFF)}}})\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment(tmp_path),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.stdout.strip() == str(telemetry.OFF), done.stderr


def test_a_user_may_switch_it_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORT_DISABLE_TELEMETRY", "0")
    monkeypatch.delenv("BENTOML_DO_NOT_TRACK")
    telemetry.switch_off()
    assert (os.environ["ORT_DISABLE_TELEMETRY"], os.environ["BENTOML_DO_NOT_TRACK"]) == ("0", "true")


def test_the_image_switches_it_off() -> None:
    text = (ROOT / "bentofile.yaml").read_text()
    for name, value in telemetry.OFF.items():
        assert f'- name: {name}\n    value: "{value}"' in text


@pytest.fixture(scope="module")
def isolated() -> None:
    if not namespace.is_possible():
        pytest.skip("this machine lets a user create no network namespace (unshare --map-root-user --net --mount)")


def names_of(seconds: float, tmp_path: Path, *command: str | Path) -> set[str]:
    code, names, printed = namespace.names_looked_up([*map(str, command)], seconds, environment(tmp_path))
    assert code == 0, printed
    return names - OURS


def test_the_resolver_of_the_test_sees_a_lookup(isolated: None, tmp_path: Path) -> None:
    program = "import socket\ntry: socket.gethostbyname('probe.example')\nexcept OSError: pass"
    assert names_of(30, tmp_path, sys.executable, "-c", program) == {"probe.example"}


TUNEPORT = (sys.executable, "-m", "tuneport")


def test_predicting_looks_up_nothing(isolated: None, tiny_artifact: Path, tmp_path: Path) -> None:
    assert names_of(60, tmp_path, *TUNEPORT, "predict", tiny_artifact, "bank") == set()


@pytest.mark.slow
@pytest.mark.parametrize("command", ["verify", "inspect", "build", "bench", "export", "finetune"])
def test_no_command_looks_up_anything(
    isolated: None, tiny_artifact: Path, tiny_checkpoint: Path, tiny_data: Path, tmp_path: Path, command: str
) -> None:
    arguments: dict[str, list[str | Path]] = {
        "bench": [tiny_artifact, "--out", tmp_path / "report", "--num-inputs", "8"],
        "export": [tiny_checkpoint, "--data", tiny_data, "--out", tmp_path / "artifact", "--variants", "fp32,int8"],
        "finetune": [
            "--task", "text-classification", "--model", tiny_checkpoint, "--data", tiny_data, "--out", tmp_path / "run",
            "--set", "max_steps=2", "--set", "max_length=64",
        ],
    }  # fmt: skip
    assert names_of(250, tmp_path, *TUNEPORT, command, *arguments.get(command, [tiny_artifact])) == set()


@pytest.mark.slow
def test_a_service_looks_up_nothing_in_its_first_minute(isolated: None, tiny_artifact: Path, tmp_path: Path) -> None:
    before = set(Path("/tmp").glob("*.ses"))
    assert names_of(SERVE_S, tmp_path, *TUNEPORT, "serve", tiny_artifact) == set()
    assert set(Path("/tmp").glob("*.ses")) <= before


@pytest.mark.slow
def test_with_telemetry_the_service_would_look_up_a_host(isolated: None, tiny_artifact: Path, tmp_path: Path) -> None:
    """Otherwise the test above would prove nothing."""
    command = ["env", "ORT_DISABLE_TELEMETRY=0", *TUNEPORT, "serve", tiny_artifact]
    assert any("microsoft" in name for name in names_of(SERVE_S, tmp_path, *command))
