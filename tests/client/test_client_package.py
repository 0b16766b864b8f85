"""Clients shared by threads and tasks, beside tritonclient, and what importing them loads."""

import asyncio
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from kit.clients import TEXTS
from kit.servers import KEY

import tuneport
from tuneport import errors
from tuneport.client.http_calls import error_of


def test_threads_and_tasks_may_share_a_client(addresses: dict[str, str]) -> None:
    for url in addresses.values():
        with tuneport.Client(url, api_key=KEY, model="tiny") as client, ThreadPoolExecutor(8) as pool:
            expected = client.predict(TEXTS).values
            single = list(pool.map(lambda text: client.predict([text])[0], TEXTS))
        assert [each["label"] for each in single] == [each["label"] for each in expected]

        async def gather(url: str = url) -> list[Any]:
            async with tuneport.AsyncClient(url, api_key=KEY, model="tiny") as client:
                return [answer[0] for answer in await asyncio.gather(*(client.predict([text]) for text in TEXTS))]

        assert [each["label"] for each in asyncio.run(gather())] == [each["label"] for each in expected]


def test_the_client_loads_little_and_lives_beside_tritonclient(addresses: dict[str, str]) -> None:
    """Each in a fresh interpreter: protobuf has one pool of messages for a process."""
    script = """
import json, sys, tuneport
before = [name for name in ("httpx", "grpc") if name in sys.modules]
tuneport.Client
names = ("torch", "numpy", "pydantic", "grpc", "google.protobuf", "tuneport.stages", "tuneport.runtime")
print(json.dumps([before, [name for name in names if name in sys.modules]]))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [[], []]
    script = f"""
import tuneport
for order in range(2):
    client = tuneport.Client({addresses["grpc"]!r}, api_key={KEY!r}, model="tiny")
    assert len(client.predict(["bank"])) == 1
    client.close()
    import tritonclient.grpc
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_an_unknown_attribute_of_the_package_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="Clint"):
        tuneport.Clint  # noqa: B018


def test_an_error_whose_body_has_no_code_has_that_of_its_header() -> None:
    content = {"error": "another change of the models is under way; try again"}
    error = error_of(409, {"error-code": "change_under_way"}, content)
    assert isinstance(error, errors.ModelNotLoaded)
    assert (error.code, error.remedy) == ("change_under_way", "try again")
