"""The gRPC server of a worker: the Open Inference Protocol, health checking and reflection."""

import asyncio
import math
import time

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from tuneport.errors import TuneportError

from ..models.host import ModelHost
from ..models.registry import ModelRegistry
from .connections import close_connections
from .servicer import SERVICE, Servicer

EXTRA_MESSAGE_BYTES = 64 * 1024
"""What a message may have beside the inputs that `max_body_bytes` bounds."""
MIN_IDLE_S = 60
POLL_S = 0.1


class GrpcServer:
    """A `grpc.aio` server in the worker's event loop."""

    def __init__(self, models: ModelRegistry, host: ModelHost | None = None) -> None:
        """Create the server; `start` opens its port, and `host` loads models."""
        self._settings = settings = models.worker.settings
        self._server = grpc.aio.server(
            options=[
                ("grpc.so_reuseport", int(settings.worker_count > 1)),
                ("grpc.max_receive_message_length", settings.max_body_bytes + EXTRA_MESSAGE_BYTES),
                ("grpc.max_send_message_length", -1),
                ("grpc.keepalive_permit_without_calls", 1),
                ("grpc.http2.min_recv_ping_interval_without_data_ms", round(1000 * settings.grpc_min_ping_s)),
                ("grpc.max_connection_idle_ms", 1000 * max(settings.keep_alive_s, MIN_IDLE_S)),
            ],
        )
        self._health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection((SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), self._server)
        self._servicer = Servicer(models, host)
        self._ends_at = math.inf
        self._stopping: asyncio.Future[None] | None = None
        self._server.add_generic_rpc_handlers((self._servicer.handlers(),))

    async def start(self) -> int:
        """Listen; returns the port. Raises TuneportError if it is taken."""
        settings = self._settings
        host = f"[{settings.grpc_host}]" if ":" in settings.grpc_host else settings.grpc_host
        address = f"{host}:{settings.grpc_port}"
        tls = settings.tls()
        try:
            if tls:
                certificate_chain, key = tls
                credentials = grpc.ssl_server_credentials([(key, certificate_chain)])
                port = self._server.add_secure_port(address, credentials)
            else:
                port = self._server.add_insecure_port(address)
        except RuntimeError as error:
            problem = f"gRPC cannot listen on {address}"
            raise TuneportError(problem, "free it, or set TUNEPORT_GRPC_PORT (0 for none)") from error
        await self._server.start()
        await self.set_ready(True)
        return port

    async def set_ready(self, ready: bool) -> None:
        """Set the status that health checks return."""
        status = health_pb2.HealthCheckResponse.SERVING if ready else health_pb2.HealthCheckResponse.NOT_SERVING
        for name in ("", SERVICE):
            await self._health.set(name, status)

    async def stop(self, shutdown_grace_s: float) -> None:
        """Refuse new calls and let active ones finish within the grace time; a later call can only shorten it."""
        self._ends_at = min(self._ends_at, time.monotonic() + shutdown_grace_s)
        if self._stopping is None:
            self._stopping = asyncio.ensure_future(self._stop())
        await asyncio.shield(self._stopping)

    async def _stop(self) -> None:
        """Refuse what comes until the accepted calls have ended, then stop.

        A grpc server that stops ends each call that it has received and not begun with CANCELLED, as if the client had
        given up. Therefore it runs on while accepted calls last, and refuses what else comes on their connections. All
        other connections are closed, so that their clients get UNAVAILABLE and connect elsewhere.
        """
        await self.set_ready(False)
        self._servicer.refuse()
        active, port = self._servicer.active, self._settings.grpc_port
        try:
            close_connections(port, except_for=active.client_ports)
            while active.accepted_ports and time.monotonic() < self._ends_at:
                await asyncio.sleep(POLL_S)
                close_connections(port, except_for=active.client_ports)
            close_connections(port, except_for=())  # calls that take longer than the grace time are UNAVAILABLE, too
        finally:
            await self._server.stop(0)
