"""The load: requests sent from a process of its own, `python -m benchmarks.load PLAN.json TALLY.json`.

Closed loop: each connection asks again as soon as it has its answer. Open loop: requests arrive at random at a
given rate whether or not earlier ones were answered, as real users do (Poisson, seeded), and latency counts from
the arrival.
"""

import asyncio
import itertools
import random
import resource
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Literal, Protocol

import uvloop
from pydantic import ConfigDict, Field

from benchmarks.load_grpc import GrpcConnection
from benchmarks.load_http import HttpConnection
from export.machine import Frozen

OK = 200
LOST = 0
"""The status of a request whose connection broke."""
UNSENT = -1
"""The status of a request that arrived when all connections were busy."""
LAST_ANSWER_S = 60.0
"""How long answers are awaited after the end."""
SEED = 5
BYTES = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")


class Plan(Frozen):
    """What to send."""

    protocol: Literal["http", "grpc"] = "http"
    host: str = "127.0.0.1"
    port: int
    path: str
    bodies: tuple[bytes, ...]
    """Sent in turn, again and again."""
    connections: int = 1
    """In an open loop: the most that may be open."""
    once: bool = False
    """Send each body once and wait for its answer before the next; nothing is timed."""
    seconds: float
    """That count, after the warm-up."""
    warm_up_s: float = 0.0
    requests_per_s: float | None = None
    """Makes it an open loop."""

    model_config = BYTES


class Tally(Frozen):
    """What came back."""

    seconds: float
    answered: int
    """With 200, from the end of the warm-up to the end of the load."""
    latencies_ms: tuple[float, ...]
    """Of those that were answered with 200, sorted."""
    statuses: dict[int, int]
    """All answers, those of the warm-up included; `LOST` where the connection broke, `UNSENT` where there was none."""
    sent: int
    client_cpu_s: float
    """Processor time of this process while it counted."""
    last_bodies: dict[int, bytes] = Field(default_factory=dict)
    """Index of a request's body → the last answer to it that was 200."""

    model_config = BYTES


class Connection(Protocol):
    """One connection that carries one request at a time."""

    is_open: bool

    def ask(self, request: bytes) -> "asyncio.Future[tuple[int, bytes]]":
        """Send a prepared request; the answer's status and body come later, or a ConnectionError."""

    def close(self) -> None:
        """Close it."""


class Load:
    """One plan at work."""

    def __init__(self, plan: Plan) -> None:
        """Prepare the bytes of every request."""
        self._plan = plan
        self._kind = HttpConnection if plan.protocol == "http" else GrpcConnection
        self._requests = [self._kind.prepare(plan.host, plan.port, plan.path, body) for body in plan.bodies]
        self._next = itertools.count()
        self._counts_from = time.perf_counter() + plan.warm_up_s
        self._ends = self._counts_from + plan.seconds
        self._latencies_ms: list[float] = []
        self._statuses: Counter[int] = Counter()
        self._bodies: dict[int, bytes] = {}
        self._idle: list[Connection] = []
        self._cpu_s = 0.0

    async def run(self) -> Tally:
        """Send until the time is up, wait for the last answers and count."""
        loop = self._open_loop if self._plan.requests_per_s else self._closed_loop
        if self._plan.once:
            loop = self._once
        watch = asyncio.ensure_future(self._watch_cpu())
        async with asyncio.timeout(self._plan.warm_up_s + self._plan.seconds + LAST_ANSWER_S):
            await loop()
        await watch
        for connection in self._idle:
            connection.close()
        await asyncio.sleep(0)  # for the loop to close the sockets
        return Tally(
            seconds=self._plan.seconds,
            answered=len(self._latencies_ms),
            latencies_ms=tuple(sorted(round(each, 3) for each in self._latencies_ms)),
            statuses=dict(self._statuses),
            sent=sum(self._statuses.values()),
            client_cpu_s=round(self._cpu_s, 3),
            last_bodies=self._bodies,
        )

    async def _watch_cpu(self) -> None:
        await asyncio.sleep(max(0.0, self._counts_from - time.perf_counter()))
        before = _cpu_s()
        await asyncio.sleep(max(0.0, self._ends - time.perf_counter()))
        self._cpu_s = _cpu_s() - before

    async def _once(self) -> None:
        for _ in self._requests:
            await self._ask(time.perf_counter())

    async def _closed_loop(self) -> None:
        async def user() -> None:
            while time.perf_counter() < self._ends:
                await self._ask(time.perf_counter())

        await asyncio.gather(*(user() for _ in range(self._plan.connections)))

    async def _open_loop(self) -> None:
        chance = random.Random(SEED)
        users: set[asyncio.Task[None]] = set()
        arrival = time.perf_counter()
        while (arrival := arrival + chance.expovariate(self._plan.requests_per_s or 1.0)) < self._ends:
            await asyncio.sleep(max(0.0, arrival - time.perf_counter()))
            if len(users) >= self._plan.connections:
                self._statuses[UNSENT] += 1
                continue
            user = asyncio.ensure_future(self._ask(arrival))
            users.add(user)
            user.add_done_callback(users.discard)
        await asyncio.gather(*users)

    async def _ask(self, arrived: float) -> None:
        index = next(self._next) % len(self._requests)
        status, body = LOST, b""
        try:
            connection = await self._connection()
            status, body = await connection.ask(self._requests[index])
            self._idle.append(connection)
        except OSError:  # refused, reset or closed: the count says so
            pass
        ended = time.perf_counter()
        self._statuses[status] += 1
        if status == OK:
            self._bodies[index] = body
            if self._counts_from <= ended <= self._ends:
                self._latencies_ms.append((ended - arrived) * 1000)
        elif status == LOST:
            await asyncio.sleep(0.01)  # a server that is gone must not become a busy loop here

    async def _connection(self) -> Connection:
        while self._idle:
            connection = self._idle.pop()
            if connection.is_open:
                return connection
        return await self._kind.connect(self._plan.host, self._plan.port)


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def main(plan_file: Path, tally_file: Path) -> None:
    """Read a plan, carry it out, write the tally."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    plan = Plan.model_validate_json(plan_file.read_bytes())

    async def carry_out() -> Tally:
        return await Load(plan).run()

    tally_file.write_text(uvloop.run(carry_out()).model_dump_json(), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
