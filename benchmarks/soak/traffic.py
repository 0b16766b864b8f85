"""Clients that send requests one after the other, repeat what was refused or interrupted, and check each answer."""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from tuneport.errors import TuneportError

from ..endpoint.targets import HOST, PREDICT_PATH, encode_predict
from ..load.http import HttpConnection
from ..load.plan import OK

TIMEOUT_S = 30.0
"""Time for a request, all attempts together; after it the request is lost."""
RETRIED_STATUSES = (429, 503)
RETRY_PAUSE_S = 0.05
TOLERANCE = 1e-3
"""Of scores: rows of one batch change the rounding of each other."""


@dataclass(frozen=True)
class Case:
    """An input, and the prediction that each version of the artifact gives for it."""

    value: Any
    expected: Mapping[str, Any]


class Traffic:
    """A number of clients that share the cases and the counts. A request may be sent twice: a prediction has no effect.

    `port` names the port that new connections go to; a connection to another one is closed before its next request.
    """

    def __init__(self, cases: Sequence[Case], port: Callable[[], int], *, requests: int | None, seconds: float) -> None:
        """Prepare the bodies; `requests` outweighs `seconds`."""
        self.answered, self.lost, self.wrong = 0, 0, 0
        self.must_go_on = False
        """Whether to send more requests than were asked for."""
        self.retried: Counter[str] = Counter()
        self.versions: Counter[str] = Counter()
        self._cases = cases
        self._bodies = [encode_predict(case.value) for case in cases]
        self._port = port
        self._max_requests = requests
        self._ends_at = time.monotonic() + seconds
        self._taken = 0
        self._failed_in_a_row = 0

    @property
    def is_over(self) -> bool:
        """Tell whether all requests have been sent or, without a number, whether the time is over."""
        if self.must_go_on:
            return False
        if self._max_requests is not None:
            return self._taken >= self._max_requests
        return time.monotonic() >= self._ends_at

    async def run(self, clients: int, until: Callable[[], bool] = lambda: False) -> None:
        """Send requests from a number of clients until it `is_over`, or until a condition holds."""
        await asyncio.gather(*(self._run_client(until) for _ in range(clients)))

    async def _run_client(self, until: Callable[[], bool]) -> None:
        connection: HttpConnection | None = None
        port = 0
        while not self.is_over and not until():
            number, self._taken = self._taken, self._taken + 1
            deadline = time.monotonic() + TIMEOUT_S
            while True:
                if connection is None or not connection.is_open or port != self._port():
                    if connection:
                        connection.close()
                    port, connection = self._port(), await self._connect()
                outcome = await self._attempt(connection, port, number, deadline) if connection else "connection"
                if outcome is None:
                    break
                if time.monotonic() > deadline or outcome == "failed":
                    self._lose()
                    break
                self.retried[outcome] += 1
                await asyncio.sleep(RETRY_PAUSE_S)
        if connection:
            connection.close()

    async def _connect(self) -> HttpConnection | None:
        with contextlib.suppress(OSError):
            return await HttpConnection.connect(HOST, self._port())
        return None

    async def _attempt(self, connection: HttpConnection, port: int, number: int, deadline: float) -> str | None:
        """Send a request once; returns None when it was answered, `failed`, or why to repeat it."""
        index = number % len(self._cases)
        try:
            async with asyncio.timeout_at(asyncio.get_running_loop().time() + deadline - time.monotonic()):
                status, body = await connection.send(
                    HttpConnection.prepare(HOST, port, PREDICT_PATH, self._bodies[index])
                )
        except (OSError, TimeoutError):
            connection.close()
            connection.is_open = False
            return "connection"
        if status == OK:
            self._check(self._cases[index], body)
            return None
        return str(status) if status in RETRIED_STATUSES else "failed"

    def _check(self, case: Case, body: bytes) -> None:
        answer = orjson.loads(body)
        version = answer["model"]["version"]
        self.versions[version] += 1
        self._failed_in_a_row = 0
        if version in case.expected and is_same(answer["predictions"], [case.expected[version]]):
            self.answered += 1
        else:
            self.wrong += 1

    def _lose(self) -> None:
        """Count a lost request; raises TuneportError where nothing is answered any more."""
        self.lost += 1
        self._failed_in_a_row += 1
        if self._failed_in_a_row > 100:
            raise TuneportError("100 requests in a row were lost", "look at the service's log")


def is_same(left: Any, right: Any) -> bool:
    """Compare two JSON values, numbers within the tolerance."""
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(is_same(left[key], right[key]) for key in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(is_same, left, right))
    if isinstance(left, float) and isinstance(right, float):
        return abs(left - right) <= TOLERANCE
    return bool(left == right)
