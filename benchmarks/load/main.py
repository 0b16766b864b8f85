"""The load generator, a process of its own: `python -m tuneport.stages.benchmarks.load.main PLAN.json RESULT.json`.

In a closed loop each connection sends its next request as soon as it has a response. In an open loop requests arrive
at a fixed mean rate (Poisson, seeded) whether or not earlier ones were answered, as those of real users do, and
latency counts from the arrival.
"""

import asyncio
import itertools
import random
import resource
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Protocol

import uvloop

from .grpc import GrpcConnection
from .http import HttpConnection
from .plan import LOST, OK, REFUSED, UNSENT, LoadPlan, LoadResult

RESPONSE_TIMEOUT_S = 60.0
"""How long to wait for outstanding responses after the load."""
RECONNECT_DELAY_S = 0.01
"""Pause after a lost connection, so that a server that is down does not cause a busy loop."""
SEED = 5
BACK_OFF_S = (0.1, 3.2)
"""Pause of a client that backs off after its first refusal, which doubles with each further one, and the longest."""
SLICES = 10
"""Parts of the timed load whose responses are counted apart."""


class Connection(Protocol):
    """A connection that carries one request at a time."""

    is_open: bool

    def send(self, request: bytes) -> "asyncio.Future[tuple[int, bytes]]":
        """Send a prepared request; the future resolves to status and body, or raises ConnectionError."""

    def close(self) -> None:
        """Close the connection."""


class LoadGenerator:
    """Sends the requests of one plan and counts the responses."""

    def __init__(self, plan: LoadPlan) -> None:
        """Prepare the bytes of every request; the warm-up starts now."""
        self._plan = plan
        self._connection_class = HttpConnection if plan.protocol == "http" else GrpcConnection
        prepare = self._connection_class.prepare
        self._requests = [prepare(plan.host, plan.port, plan.path, body) for body in plan.bodies]
        self._next_index = itertools.count()
        self._timed_from = time.perf_counter() + plan.warm_up_s
        self._ends_at = self._timed_from + plan.seconds
        self._latencies_ms: list[float] = []
        self._answered = [0] * SLICES
        self._statuses: Counter[int] = Counter()
        self._last_bodies: dict[int, bytes] = {}
        self._idle: list[Connection] = []
        self._client_cpu_s = 0.0

    async def run(self) -> LoadResult:
        """Send requests until the time is up, wait for outstanding responses, and count."""
        cpu_timer = asyncio.ensure_future(self._measure_cpu())
        async with asyncio.timeout(self._plan.warm_up_s + self._plan.seconds + RESPONSE_TIMEOUT_S):
            await self._send_all()
        await cpu_timer
        for connection in self._idle:
            connection.close()
        await asyncio.sleep(0)  # lets the event loop close the sockets
        return LoadResult(
            seconds=self._plan.seconds,
            answered=sum(self._answered),
            answered_by_slice=tuple(self._answered),
            latencies_ms=tuple(sorted(round(latency, 3) for latency in self._latencies_ms)),
            statuses=dict(self._statuses),
            sent=sum(self._statuses.values()),
            client_cpu_s=round(self._client_cpu_s, 3),
            last_bodies=self._last_bodies,
        )

    async def _send_all(self) -> None:
        if self._plan.once:
            for _ in self._requests:
                await self._send_next(time.perf_counter())
        elif self._plan.requests_per_s:
            await self._open_loop(self._plan.requests_per_s)
        else:
            await asyncio.gather(*(self._closed_loop(number) for number in range(self._plan.connections)))

    async def _closed_loop(self, number: int) -> None:
        chance, (pause_s, longest_s) = random.Random(SEED + number), BACK_OFF_S
        while (now := time.perf_counter()) < self._ends_at:
            if await self._send_next(now) != REFUSED or not self._plan.backs_off:
                pause_s = BACK_OFF_S[0]
                continue
            await asyncio.sleep(min(pause_s * chance.uniform(0.5, 1.5), self._ends_at - now))
            pause_s = min(2 * pause_s, longest_s)

    async def _open_loop(self, requests_per_s: float) -> None:
        chance = random.Random(SEED)
        pending: set[asyncio.Task[int]] = set()
        arrival = time.perf_counter()
        while (arrival := arrival + chance.expovariate(requests_per_s)) < self._ends_at:
            await asyncio.sleep(max(0.0, arrival - time.perf_counter()))
            if len(pending) >= self._plan.connections:
                self._statuses[UNSENT] += 1
                continue
            request = asyncio.ensure_future(self._send_next(arrival))
            pending.add(request)
            request.add_done_callback(pending.discard)
        await asyncio.gather(*pending)

    async def _send_next(self, arrival: float) -> int:
        """Send the next request, record its response and return its status; `arrival` is a time of `perf_counter`."""
        index = next(self._next_index) % len(self._requests)
        status, body = LOST, b""
        try:
            connection = await self._acquire_connection()
            status, body = await connection.send(self._requests[index])
            self._idle.append(connection)
        except OSError:  # refused, reset or closed: counted as LOST
            pass
        ended = time.perf_counter()
        self._statuses[status] += 1
        if status == OK:
            self._last_bodies[index] = body
            self._record(arrival, ended)
        elif status == LOST:
            await asyncio.sleep(RECONNECT_DELAY_S)
        return status

    def _record(self, arrival: float, ended: float) -> None:
        """Count a response, and its latency if it belongs to the timed load."""
        is_within = self._timed_from <= ended <= self._ends_at
        if is_within and self._plan.seconds:
            share = (ended - self._timed_from) / self._plan.seconds
            self._answered[min(SLICES - 1, int(SLICES * share))] += 1
        is_open = self._plan.requests_per_s is not None
        if is_within if not is_open else self._timed_from <= arrival:
            self._latencies_ms.append((ended - arrival) * 1000)

    async def _acquire_connection(self) -> Connection:
        """Reuse an idle connection that is still open, or open one."""
        while self._idle:
            connection = self._idle.pop()
            if connection.is_open:
                return connection
        return await self._connection_class.connect(self._plan.host, self._plan.port)

    async def _measure_cpu(self) -> None:
        """Measure this process's CPU time during the timed load."""
        await asyncio.sleep(max(0.0, self._timed_from - time.perf_counter()))
        before = _cpu_s()
        await asyncio.sleep(max(0.0, self._ends_at - time.perf_counter()))
        self._client_cpu_s = _cpu_s() - before


def _cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def main(plan_file: Path, result_file: Path) -> None:
    """Read a `LoadPlan`, run it, and write the `LoadResult`."""
    _, max_files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max_files, max_files))
    plan = LoadPlan.model_validate_json(plan_file.read_bytes())

    async def run() -> LoadResult:
        return await LoadGenerator(plan).run()

    result_file.write_text(uvloop.run(run()).model_dump_json(), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
