"""An S3 server on this machine, from a package."""

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tuneport.stages.serve.process import free_port

from .engines import wait_until

BUCKET = "models"


@contextlib.contextmanager
def s3_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Run one with a bucket for the length of a block; yields the bucket's URL.

    Skips the test without the packages, and where they do not run.

    moto needs older versions of packages than these tests, so that it is installed in an environment of its own.
    """
    pytest.importorskip("obstore", reason="obstore is not installed (tuneport[s3])")
    path = os.pathsep.join((str(Path(sys.prefix, "s3", "bin")), os.environ["PATH"]))  # that of the Makefile first
    program = shutil.which("moto_server", path=path)
    if program is None:
        pytest.skip("moto_server is not installed (`make test` installs it)")
    address = f"http://127.0.0.1:{free_port()}"
    host, _, port = address.removeprefix("http://").partition(":")
    server = subprocess.Popen([program, "-H", host, "-p", port], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def has_ended_or_made_bucket() -> bool:
        if server.poll() is not None:
            return True
        with contextlib.suppress(httpx.TransportError):
            return httpx.put(f"{address}/{BUCKET}").status_code == httpx.codes.OK
        return False

    variables = {"ENDPOINT_URL": address, "ACCESS_KEY_ID": "key", "SECRET_ACCESS_KEY": "secret", "REGION": "us-east-1"}
    for name, value in variables.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    try:
        wait_until(has_ended_or_made_bucket)
        if server.poll() is not None:
            pytest.skip(f"{program} ends with exit code {server.returncode} at its start")
        yield f"s3://{BUCKET}"
    finally:
        server.terminate()
        server.wait(30)
