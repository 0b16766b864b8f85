"""Both clients; a service with an API key over both protocols, one without, and one that generates text."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from kit.clients import Call, call_async, call_sync
from kit.servers import KEY
from kit.serving import LocalService, local_service

from tuneport.stages.serve.bento import SERVICE, register, serve_command
from tuneport.stages.serve.process import free_port, running


@pytest.fixture(params=[call_sync, call_async], ids=["sync", "async"])
def call(request: pytest.FixtureRequest) -> Call:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(params=["http", "grpc"])
def address(request: pytest.FixtureRequest, addresses: dict[str, str]) -> str:
    return addresses[request.param]


@pytest.fixture(scope="package")
def addresses(tiny_artifact: Path) -> Iterator[dict[str, str]]:
    """A service with an API key, over both protocols."""
    port, grpc_port = free_port(), free_port()
    url = f"http://127.0.0.1:{port}"
    command = serve_command(SERVICE, host="127.0.0.1", port=port, model=register(tiny_artifact))
    settings = {"TUNEPORT_API_KEYS": KEY, "TUNEPORT_VARIANT": "fp32", "TUNEPORT_GRPC_PORT": str(grpc_port)}
    with running(command, url, settings):
        yield {"http": url, "grpc": f"grpc://127.0.0.1:{grpc_port}"}


@pytest.fixture(scope="module")
def service(tiny_artifact: Path) -> Iterator[LocalService]:
    with local_service(tiny_artifact, max_concurrent_requests=1) as local:
        yield local


@pytest.fixture(scope="package")
def generator(chat: Path) -> Iterator[LocalService]:
    with local_service(chat) as local:
        yield local
