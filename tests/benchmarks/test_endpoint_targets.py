"""The servers of the endpoint benchmark: tuneport's own, torch behind BentoML, and the peers."""

import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import orjson
import pytest

from tuneport.errors import TuneportError
from tuneport.schema.artifact import Manifest
from tuneport.stages.benchmarks.endpoint.peers import peer_targets
from tuneport.stages.benchmarks.endpoint.processes import descendants, start_server
from tuneport.stages.benchmarks.endpoint.results import GRPC, HTTP
from tuneport.stages.benchmarks.endpoint.targets import (
    BENTO_BATCHER,
    NULL_SERVER,
    TORCH_FP16,
    TORCH_FP32,
    EndpointTarget,
    absent_targets,
    endpoint_targets,
    null_target,
    served_device,
    torch_targets,
)
from tuneport.stages.benchmarks.peers.registry import FAILED as FAILED_FILE
from tuneport.stages.benchmarks.peers.registry import PEERS, peers_of


def make_environment(folder: Path, peer: str) -> Path:
    """Pretend that a peer was installed; returns its interpreter."""
    python = folder / peer / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.touch()
    return python


def test_peers_without_an_environment_are_named_with_the_reason(tmp_path: Path, manifest: Manifest) -> None:
    failed = tmp_path / "infinity"
    failed.mkdir()
    (failed / FAILED_FILE).write_text("ERROR: no version fits.\n")
    python = make_environment(tmp_path, "litserve")
    targets, absent = peer_targets(tmp_path, manifest, tmp_path / "checkpoint", "cpu")
    assert [each.name for each in targets] == ["LitServe + torch"]
    command = targets[0].command(1234)
    assert command[0] == str(python)
    assert Path(command[1]).is_file()
    assert targets[0].environment["MAX_LENGTH"] == str(manifest.processing.max_length)
    assert "infinity + torch: it cannot be installed here (ERROR: no version fits)." in absent
    assert "FastAPI + torch: there is no environment in fastapi." in absent
    assert len(absent) == len(peers_of("server")) - 1
    assert peer_targets(None, manifest, tmp_path, "cpu")[0] == []


def test_every_peer_has_its_file_and_pinned_versions() -> None:
    for peer in PEERS:
        assert peer.script.is_file()
        assert all("==" in requirement for requirement in (*peer.requirements, *peer.alone)), peer.name
        assert (peer.kind == "server") == (not peer.precisions)
    assert len({peer.folder for peer in PEERS}) == len(PEERS)


RESPONSES = {
    "LitServe + torch": {"label": "sports", "score": 0.9},
    "FastAPI + torch": {"label": "sports", "score": 0.9},
    "infinity + torch": {"data": [[{"label": "tech", "score": 0.1}, {"label": "sports", "score": 0.9}]]},
    "Ray Serve + torch": {"label": "sports", "score": 0.9},
    "MLServer, Hugging Face runtime": {
        "outputs": [{"name": "output", "data": ['{"label": "sports", "score": 0.9}'], "datatype": "BYTES"}]
    },
    "Triton's Python backend (PyTriton)": {
        "outputs": [{"name": "score", "data": [0.9]}, {"name": "label", "data": ["sports"]}]
    },
}
"""What each peer answered when it was run."""


def test_the_answer_of_every_peer_is_read_as_a_prediction(tmp_path: Path, manifest: Manifest) -> None:
    for peer in peers_of("server"):
        make_environment(tmp_path, peer.folder)
    targets, absent = peer_targets(tmp_path, manifest, tmp_path, "cpu")
    assert not absent
    assert {each.name for each in targets} == RESPONSES.keys()
    for each in targets:
        prediction = each.decode_response(orjson.dumps(RESPONSES[each.name]))
        assert prediction == {"label": "sports", "score": 0.9}
        assert b"a text" in each.encode_request("a text")
        assert each.encode_request("a text") == each.encode_request({"text": "a text"})


def waiting(code: str, timeout_s: float = 60.0) -> EndpointTarget:
    """Return a server that is a line of Python; its port is the first argument."""
    return replace(
        null_target(), command=lambda port: [sys.executable, "-c", code, str(port)], start_timeout_s=timeout_s
    )


def test_no_process_of_a_server_outlives_its_turn() -> None:
    """Also one that ignores the signal, and whose parent has ended before."""
    child = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"
    start = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {child!r}], start_new_session=True)"
    serve = f"; import runpy; runpy.run_module({NULL_SERVER!r}, run_name='__main__')"
    with start_server(waiting(start + serve)) as server:
        (process,) = descendants(server.pid)
        assert process.is_running()
    process.wait(5)


def test_a_server_that_never_becomes_ready_is_an_error_that_says_how_long_was_waited() -> None:
    target = waiting("import time; print('loading', flush=True); time.sleep(60)", timeout_s=0.8)
    with pytest.raises(TuneportError, match=r"did not become ready within 0\.8 s: loading"), start_server(target):
        pass


def test_a_server_whose_port_is_in_use_is_an_error_with_the_end_of_its_log() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        code = f"import socket; socket.socket().bind(('127.0.0.1', {taken.getsockname()[1]}))"
        with (
            pytest.raises(TuneportError, match=r"ended at its start: .*Address already in use"),
            start_server(waiting(code)),
        ):
            pass


@pytest.mark.slow
def test_every_server_command_names_a_service_that_exists(
    tiny_artifact: Path, tiny_checkpoint: Path, manifest: Manifest
) -> None:
    targets = {each.name: each for each in endpoint_targets(tiny_artifact, manifest, tiny_checkpoint, None)}
    assert {HTTP, GRPC, BENTO_BATCHER, TORCH_FP32} <= set(targets)
    services = {}
    for name, each in targets.items():
        command = each.command(1234)
        assert Path(command[0]).samefile(sys.executable)
        (services[name],) = (word for word in command if word.startswith("tuneport.") and ":" in word)
    assert services[HTTP] == services[GRPC]
    assert len(set(services.values())) == 4
    for service in set(services.values()):
        module, _, name = service.partition(":")
        # In a process of its own: a service reads its settings, and BentoML its arguments, at import.
        check = f"import importlib, sys; sys.exit(0 if hasattr(importlib.import_module({module!r}), {name!r}) else 3)"
        assert subprocess.run([sys.executable, "-P", "-c", check], timeout=120, check=False).returncode == 0, service


def test_torch_is_served_on_the_device_of_the_variant(manifest: Manifest, tiny_checkpoint: Path) -> None:
    on_cuda, batchable = torch_targets(manifest, tiny_checkpoint, "cuda")
    assert batchable.name == f"{TORCH_FP16}, batchable"
    assert batchable.environment == on_cuda.environment
    assert batchable.encode_request("x") == b'{"texts":["x"]}'
    assert batchable.decode_response(b'[{"label": "a", "score": 1}]') == {"label": "a", "score": 1}
    assert on_cuda.name == TORCH_FP16
    assert (on_cuda.environment["DEVICE"], on_cuda.environment["DTYPE"]) == ("cuda", "float16")
    on_cpu = {each.name: each.environment for each in torch_targets(manifest, tiny_checkpoint, "cpu")}
    assert on_cpu[TORCH_FP32]["DEVICE"] == "cpu"
    assert TORCH_FP16 not in on_cpu
    assert not absent_targets(manifest, "cuda")
    for device, expected in (("cpu", "cpu"), ("tensorrt", "cuda")):
        variant = manifest.variants[0]
        execution = variant.execution.model_copy(update={"device": device})
        moved = manifest.model_copy(update={"variants": (variant.model_copy(update={"execution": execution}),)})
        assert served_device(moved, variant.name) == expected
