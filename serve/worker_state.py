"""What a worker has once, however many models it serves: keys, active requests, metrics, and whether it serves."""

import asyncio
import hmac
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from tuneport.errors import Forbidden, Overloaded, Unauthenticated

from . import tracing
from .admission_policy import RefusalPacer
from .metrics.families import Families
from .settings import Settings


class WorkerState:
    """The state that all models of a worker share."""

    def __init__(self, settings: Settings, service_name: str) -> None:
        """Read the API keys; `service_name` is the name in traces, unless OpenTelemetry's variables set another."""
        self.settings = settings
        self.families = Families(processes=settings.process_count)
        self.is_serving = True
        """False as soon as the service is told to stop, or has lost its device."""
        self.refusal_pacer = RefusalPacer()
        self.record_span = tracing.recorder(service_name)
        self._admin_keys = settings.keys("admin_keys")
        self._keys = settings.keys("api_keys")
        self._active_requests = 0

    def check_key(self, authorization: str | None, api_key: str | None) -> None:
        """Raise Unauthenticated for a request without a valid key in either header, where keys are set.

        Takes the same time for every wrong key. A key of an administrator is valid, too.
        """
        if not self._keys:
            return
        sent = _sent_keys(authorization, api_key)
        if not _is_among(sent, (*self._keys, *self._admin_keys)):
            raise _unauthenticated(sent)

    def check_admin_key(self, authorization: str | None, api_key: str | None) -> None:
        """Raise Unauthenticated for a request without a key, and Forbidden for one without an administrator's."""
        if not self._admin_keys:
            raise Forbidden("no key may load and unload models here", "start the service with TUNEPORT_ADMIN_KEYS")
        sent = _sent_keys(authorization, api_key)
        if not any(sent):
            raise _unauthenticated(sent)
        if not _is_among(sent, self._admin_keys):
            raise Forbidden("the API key may not load and unload models", "send one of TUNEPORT_ADMIN_KEYS")

    @contextmanager
    def acquire_slot(self) -> Iterator[None]:
        """Count a request as active for as long as the block lasts; raises what `check_slot` raises."""
        self.check_slot()
        self._active_requests += 1
        try:
            yield
        finally:
            self._active_requests -= 1

    def check_slot(self) -> None:
        """Raise Overloaded where as many requests are active as may be."""
        limit = self.settings.max_concurrent_requests
        if self._active_requests >= limit:
            problem = f"{self._active_requests} requests are active and at most {limit} may be"
            raise Overloaded(problem, "try again after a second, or add replicas")

    async def hold_refusal(self) -> None:
        """Wait for as long as the answer to a refused request is to be held back; see `RefusalPacer`."""
        held_s = self.refusal_pacer.hold_s(time.monotonic())
        if held_s:
            await asyncio.sleep(held_s)


def _sent_keys(authorization: str | None, api_key: str | None) -> list[str]:
    sent = [api_key] if api_key else []
    if authorization and authorization[:7].lower() == "bearer ":
        sent.append(authorization[7:].strip())
    return sent


def _is_among(sent: Sequence[str], keys: Sequence[bytes]) -> bool:
    pairs = [(each.encode("utf-8", "surrogateescape"), key) for each in sent for key in keys]
    return any([hmac.compare_digest(each, key) for each, key in pairs])


def _unauthenticated(sent: Sequence[str]) -> Unauthenticated:
    problem = "the API key is wrong" if any(sent) else "there is no API key"
    return Unauthenticated(problem, "send Authorization: Bearer KEY, or x-api-key: KEY")
