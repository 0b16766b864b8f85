"""Clients that do not read, and connections in great number."""

import contextlib
import resource
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest
from kit.engines import wait_until
from kit.processes import HOST, alive, served
from kit.serving import local_service

READY = b"GET /v2/health/ready HTTP/1.1\r\nHost: a\r\n\r\n"
RESET = struct.pack("ii", 1, 0)
"""SO_LINGER, so that ten thousand closed connections leave no TIME_WAIT."""


def read_nothing(port: int, requests: int) -> socket.socket:
    """Ask for more than the buffers of the connection hold, and read nothing of it."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect((HOST, port))
    client.sendall(b"GET /docs.json HTTP/1.1\r\nHost: a\r\n\r\n" * requests)
    return client


def test_a_client_that_reads_nothing_holds_no_other_and_is_disconnected(tiny_artifact: Path) -> None:
    """It sends 400 requests at once; more than a few megabytes of their responses fit into no buffer."""
    with local_service(tiny_artifact, body_timeout_s=0.5, max_concurrent_requests=2) as service:
        process = psutil.Process()
        before = process.memory_info().rss
        stuck = [read_nothing(service.port, 400) for _ in range(4)]
        for _ in range(5):
            assert service.post().status_code == 200
        ports = {client.getsockname()[1] for client in stuck}

        def connected() -> list[int]:
            return [each.raddr.port for each in process.net_connections() if each.raddr and each.raddr.port in ports
                    and each.laddr.port == service.port]  # fmt: skip

        wait_until(lambda: not connected())
        assert process.memory_info().rss - before < 100e6
        for client in stuck:
            client.close()
        with socket.create_connection((HOST, service.port), timeout=20) as slow:  # reads late, and in time
            slow.sendall(READY * 3)
            time.sleep(0.7)
            assert slow.recv(65536).count(b"HTTP/1.1 200") == 3
        assert service.post().status_code == 200


@contextlib.contextmanager
def idle_connections(port: int, number: int) -> Iterator[list[socket.socket]]:
    """Open connections that send nothing; those that are refused at once are left out."""
    opened: list[socket.socket] = []
    try:
        for _ in range(number):
            client = socket.socket()
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            client.settimeout(30)
            client.connect((HOST, port))
            opened.append(client)
        yield opened
    finally:
        for client in opened:
            client.close()


@pytest.mark.slow
def test_ten_thousand_idle_connections_hold_no_request(tiny_artifact: Path, tmp_path: Path) -> None:
    number = 10_000
    if resource.getrlimit(resource.RLIMIT_NOFILE)[0] < number + 500:
        pytest.skip("this process may not open so many files (ulimit -n)")
    with served(tiny_artifact, tmp_path / "log", TUNEPORT_HEADER_TIMEOUT_S="20") as (tree, ports):
        url = f"http://{HOST}:{ports[0]}"
        before = tree[-1].memory_info().rss
        with idle_connections(ports[0], number) as opened:
            for _ in range(10):
                assert httpx.post(f"{url}/predict", json={"inputs": "bank"}, timeout=30).status_code == 200
            assert len(opened) == number
            assert tree[-1].memory_info().rss - before < number * 20_000
            opened[0].settimeout(60)
            assert opened[0].recv(10) == b""  # the service closes them after the time for headers
            assert opened[-1].recv(10) == b""
        assert httpx.post(f"{url}/predict", json={"inputs": "bank"}, timeout=30).status_code == 200
        assert len(alive(tree)) == len(tree)


@pytest.mark.slow
def test_more_connections_than_files_leave_the_open_ones_working(tiny_artifact: Path, tmp_path: Path) -> None:
    with served(tiny_artifact, tmp_path / "log", TUNEPORT_HEADER_TIMEOUT_S="5") as (tree, ports):
        url = f"http://{HOST}:{ports[0]}"
        with httpx.Client(base_url=url, timeout=30) as client:
            assert client.post("/predict", json={"inputs": "bank"}).status_code == 200
            files = tree[-1].num_fds() + 50
            resource.prlimit(tree[-1].pid, resource.RLIMIT_NOFILE, (files, files))
            with idle_connections(ports[0], 300):
                for _ in range(5):
                    assert client.post("/predict", json={"inputs": "bank"}).status_code == 200

            def is_served() -> bool:
                with contextlib.suppress(httpx.TransportError):
                    return httpx.post(f"{url}/predict", json={"inputs": "bank"}, timeout=5).status_code == 200
                return False

            wait_until(is_served)
        assert len(alive(tree)) == len(tree)
