"""The service under test: one `tuneport serve` at a time, replaced without a pause by another one."""

import asyncio
import contextlib
import signal
import tempfile
from collections.abc import Mapping
from pathlib import Path

import psutil

from tuneport.errors import TuneportError
from tuneport.runtime.availability import variant_here
from tuneport.schema.loading import load_manifest
from tuneport.stages.serve.process import free_port, running, supervisor_command

from ..endpoint.processes import resource_usage
from ..endpoint.targets import HOST

DRAIN_S = 1.0


class Service:
    """Starts servers of an artifact; `port` is that of the newest one that is ready."""

    def __init__(self, variant: str | None, workers: int, environment: Mapping[str, str]) -> None:
        """Start nothing yet."""
        self.port = 0
        self._variant = variant
        self._environment = {"TUNEPORT_WORKERS": str(workers), "TUNEPORT_DRAIN_S": str(DRAIN_S), **environment}
        self._pid = 0
        self._stack = contextlib.ExitStack()

    def worker_mib(self) -> float:
        """Return the resident memory of the largest process."""
        return resource_usage(self._pid).worker_mib

    async def replace(self, artifact: Path) -> None:
        """Start a server of an artifact and stop the one before it, if there is one, once the new one is ready.

        Raises TuneportError, with the old one serving, if the new one does not become ready.
        """
        variant = variant_here(load_manifest(artifact), self._variant).name
        port, stack = free_port(), contextlib.ExitStack()
        server = running(
            supervisor_command(artifact, host=HOST, port=port),
            f"http://{HOST}:{port}",
            {**self._environment, "TUNEPORT_VARIANT": variant},
        )
        pid = await asyncio.to_thread(stack.enter_context, server)
        old, self._stack, self._pid, self.port = self._stack, stack, pid, port
        await asyncio.to_thread(old.close)

    def kill_worker(self) -> None:
        """End a worker as the kernel does when memory is short."""
        workers = psutil.Process(self._pid).children()
        workers[0].send_signal(signal.SIGKILL)

    async def fail_to_replace(self, artifact: Path) -> None:
        """Try to roll out a damaged copy of an artifact; raises TuneportError if that starts."""
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder, "damaged")
            for file in artifact.rglob("*"):
                target = copy / file.relative_to(artifact)
                target.parent.mkdir(parents=True, exist_ok=True)
                if file.is_file():
                    content = file.read_bytes()
                    target.write_bytes(content[: len(content) // 2] if file.suffix == ".onnx" else content)
            before = self.port
            with contextlib.suppress(TuneportError):
                await self.replace(copy)
            if self.port != before:
                raise TuneportError("a damaged artifact was served", "report it")

    async def close(self) -> None:
        """Stop the server."""
        await asyncio.to_thread(self._stack.close)
