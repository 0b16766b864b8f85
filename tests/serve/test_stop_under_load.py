"""SIGTERM under load: what the service has accepted it answers, and what it refuses it refuses as such."""

import itertools
import json
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import grpc
import httpx
import pytest
from kit.processes import HOST, is_ready, kill_tree, wait
from kit.serving import infer_request

from tuneport.stages.serve.bento import serve_command
from tuneport.stages.serve.grpc import open_inference_pb2 as pb
from tuneport.stages.serve.process import free_port, serve_environment, supervisor_command

WORKERS = 2
CLIENTS = 6
"""Of each protocol."""
UNDER_LOAD_S = 0.7
ENDED_S = 60
TRIES = {"tuneport": 1, "bentoml": 3}
"""Starts of a service whose ports another process may take."""
OWN_CONNECTION = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
OK, REFUSED = "OK", "UNAVAILABLE"

pytestmark = pytest.mark.slow


@dataclass
class Calls:
    """What came of each call, by its request id."""

    over_http: dict[str, str] = field(default_factory=dict)
    over_grpc: dict[str, str] = field(default_factory=dict)


def call_http(port: int, calls: Calls, client: int) -> None:
    """Send requests, each over a connection of its own, until the port is closed."""
    for number in itertools.count():
        name = f"http-{client}-{number}"
        try:
            answer = httpx.post(
                f"http://{HOST}:{port}/predict", json={"inputs": "bank"}, headers={"x-request-id": name}, timeout=30
            )
        except httpx.ConnectError:
            return
        except httpx.TransportError as error:  # a connection that waited to be accepted is reset
            calls.over_http[name] = type(error).__name__
        else:
            calls.over_http[name] = str(answer.status_code)


def call_grpc(port: int, calls: Calls, client: int) -> None:
    """Send calls over one connection, until one is not answered."""
    with grpc.insecure_channel(f"{HOST}:{port}", options=OWN_CONNECTION) as channel:
        infer = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            request_serializer=lambda each: each.SerializeToString(),
            response_deserializer=pb.ModelInferResponse.FromString,
        )
        for number in itertools.count():
            name = f"grpc-{client}-{number}"
            try:
                infer(infer_request(["bank"]), timeout=30, metadata=(("x-request-id", name),))
            except grpc.RpcError as error:
                calls.over_grpc[name] = error.code().name
                return
            calls.over_grpc[name] = OK


def start(
    supervisor: str, artifact: Path, tag: str, settings: Mapping[str, str], log: Path
) -> tuple["subprocess.Popen[bytes]", int, int]:
    """Start a service of two workers and wait for them; returns the process and its ports for HTTP and gRPC.

    BentoML's supervisor chooses further ports for itself, which another process may take before it listens: then it is
    started again, with new ports.
    """
    for _ in range(TRIES[supervisor]):
        http, rpc = free_port(), free_port()
        command = (
            supervisor_command(artifact, host=HOST, port=http)
            if supervisor == "tuneport"
            else serve_command(tag, host=HOST, port=http)
        )
        environment = serve_environment() | {f"TUNEPORT_{name}": value for name, value in settings.items()}
        with log.open("wb") as out:
            process = subprocess.Popen(
                command,
                env=environment | {"TUNEPORT_GRPC_PORT": str(rpc)},
                cwd=log.parent,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        try:
            wait(partial(_has_ended_or_is_ready, process, http, log), 90, log)
        except BaseException:
            kill_tree(process)
            raise
        if process.poll() is None:
            return process, http, rpc
        kill_tree(process)
        if "Address already in use" not in log.read_text():
            break
    raise AssertionError(log.read_text())


def _has_ended_or_is_ready(process: "subprocess.Popen[bytes]", port: int, log: Path) -> bool:
    """Tell whether a service has ended, or every worker is ready."""
    return process.poll() is not None or (is_ready(port) and log.read_text().count('"event":"ready"') == WORKERS)


def logged(log: Path) -> dict[str, str]:
    """Return the status of each request that the service has taken, by its id."""
    lines = [json.loads(line) for line in log.read_text().splitlines() if '"event":"request"' in line]
    return {line["request_id"]: line["status"] for line in lines}


@pytest.mark.parametrize("drain_s", ["0", "0.5"])
@pytest.mark.parametrize("engines", ["0", "1"])
@pytest.mark.parametrize("supervisor", ["tuneport", "bentoml"])
def test_two_workers_answer_what_they_have_accepted(
    supervisor: str, engines: str, drain_s: str, tiny_artifact: Path, bento_tag: str, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    settings = {"WORKERS": str(WORKERS), "ENGINES": engines, "DRAIN_S": drain_s, "VARIANT": "fp32"}
    process, http, rpc = start(supervisor, tiny_artifact, bento_tag, settings, log)
    calls, kinds = Calls(), ((call_http, http), (call_grpc, rpc))
    clients = [_thread(kind, port, calls, client) for kind, port in kinds for client in range(CLIENTS)]
    try:
        for client in clients:
            client.start()
        time.sleep(UNDER_LOAD_S)
        process.send_signal(signal.SIGTERM)
        for client in clients:
            client.join(ENDED_S)
        assert process.wait(ENDED_S) == 0, log.read_text()
    finally:
        kill_tree(process)
    taken = logged(log)
    assert {status for name, status in taken.items() if name in calls.over_grpc} <= {OK, REFUSED}
    assert set(calls.over_grpc.values()) == {OK, REFUSED}, calls.over_grpc
    assert {name for name, status in calls.over_grpc.items() if status != OK and taken.get(name) == OK} == set()
    lost = {name: status for name, status in calls.over_http.items() if status != "200"}
    assert {name: taken[name] for name in lost if name in taken and lost[name] != taken[name]} == {}
    assert set(lost.values()) <= {"503", "ReadError", "RemoteProtocolError", "WriteError"}
    assert "200" in calls.over_http.values()


def _thread(kind: Callable[[int, Calls, int], None], port: int, calls: Calls, client: int) -> threading.Thread:
    return threading.Thread(target=kind, args=(port, calls, client), daemon=True)
