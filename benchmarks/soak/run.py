"""Run a soak test: traffic, readings of the memory, and faults in turn."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from tuneport.runtime.predictor import Predictor
from tuneport.schema.base import Frozen
from tuneport.schema.loading import load_golden

from .result import Reading, SoakResult
from .service import Service
from .traffic import Case, Traffic

READING_S = 10.0
WARM_UP_S = 5.0
"""Before the first reading: caches, threads and buffers grow at the start, which is not a leak."""
BURST_CLIENTS, BURST_S = 64, 3.0
OVERLOAD = {"TUNEPORT_MAX_CONCURRENT_REQUESTS": "16"}
"""A limit that the clients of a burst exceed, with faults."""


class SoakConfig(Frozen):
    """How long and how much, at the least; and with which faults."""

    artifact: Path
    variant: str | None = None
    seconds: float = 60.0
    requests: int | None = None
    """Outweighs `seconds`."""
    connections: int = 8
    faults: bool = False
    upgrade: Path | None = None
    """The artifact that roll-outs alternate with; by default the same again."""
    fault_interval_s: float = 10.0
    """Pause between two faults."""


def soak(config: SoakConfig, progress: Callable[[str], object] = lambda _: None) -> SoakResult:
    """Send golden inputs in turn, check every answer, and watch the memory.

    Golden inputs include one word, Unicode and texts beyond the maximum length, so batches take many shapes. With
    faults two workers serve; they are killed, replaced by another version, overloaded, and a damaged version is rolled
    out in vain. Raises TuneportError if the service does not start.
    """
    return asyncio.run(_soak(config, progress))


def cases_of(config: SoakConfig) -> list[Case]:
    """Return the golden inputs with the prediction of each version, computed in this process."""
    values = [case.input for case in load_golden(config.artifact)]
    predictions = {}
    for artifact in dict.fromkeys((config.artifact, config.upgrade or config.artifact)):
        predictor = Predictor(artifact, config.variant)
        predictions[predictor.manifest.version] = predictor.predict(values)
    return [Case(value, {name: each[i] for name, each in predictions.items()}) for i, value in enumerate(values)]


async def _soak(config: SoakConfig, progress: Callable[[str], object]) -> SoakResult:
    cases = await asyncio.to_thread(cases_of, config)
    service = Service(config.variant, 2 if config.faults else 1, OVERLOAD if config.faults else {})
    faults: Counter[str] = Counter()
    try:
        await service.replace(config.artifact)
        if not config.faults:
            warm_up = Traffic(cases, lambda: service.port, requests=None, seconds=min(WARM_UP_S, config.seconds))
            await warm_up.run(config.connections)
        traffic = Traffic(cases, lambda: service.port, requests=config.requests, seconds=config.seconds)
        started = time.monotonic()
        memory: list[Reading] = []

        def read_memory() -> None:
            reading = Reading(
                seconds=round(time.monotonic() - started, 1),
                requests=traffic.answered,
                worker_mib=round(service.worker_mib(), 1),
            )
            memory.append(reading)
            counts = f"{traffic.lost} lost, {traffic.wrong} wrong, {dict(faults)}"
            progress(f"{reading.seconds:.0f} s, {reading.requests} requests, {reading.worker_mib} MiB, {counts}")

        read_memory()
        traffic.must_go_on = config.faults
        others = [asyncio.create_task(_every(READING_S, traffic, read_memory))]
        if config.faults:
            others.append(asyncio.create_task(_cause_faults(config, service, traffic, faults)))
        await asyncio.gather(traffic.run(config.connections), *others)
        read_memory()
    finally:
        await service.close()
    return SoakResult(
        requests=traffic.answered,
        lost=traffic.lost,
        wrong=traffic.wrong,
        retried=dict(traffic.retried),
        versions=dict(traffic.versions),
        faults=dict(faults),
        seconds=memory[-1].seconds,
        memory=tuple(memory),
        growth=None if config.faults else round(memory[-1].worker_mib / memory[0].worker_mib - 1, 4),
    )


async def _every(seconds: float, traffic: Traffic, act: Callable[[], None]) -> None:
    while not await _pause(seconds, traffic):
        act()


async def _pause(seconds: float, traffic: Traffic) -> bool:
    """Wait for some time, or until the traffic is over; tells whether it is."""
    ends_at = time.monotonic() + seconds
    while not traffic.is_over and time.monotonic() < ends_at:
        await asyncio.sleep(0.05)
    return traffic.is_over


async def _cause_faults(config: SoakConfig, service: Service, traffic: Traffic, faults: Counter[str]) -> None:
    """Cause one fault after the other as long as there is traffic, each at least once."""
    artifacts = [config.upgrade or config.artifact, config.artifact]
    while True:
        for fault in ("worker killed", "roll-out", "overload", "damaged roll-out"):
            if await _pause(config.fault_interval_s, traffic):
                return
            if fault == "worker killed":
                service.kill_worker()
            elif fault == "roll-out":
                await service.replace(artifacts[faults[fault] % len(artifacts)])
            elif fault == "overload":
                ends_at = time.monotonic() + BURST_S
                await traffic.run(BURST_CLIENTS, until=lambda ends_at=ends_at: time.monotonic() >= ends_at)  # type: ignore[misc]
            else:
                await service.fail_to_replace(config.artifact)
            faults[fault] += 1
        traffic.must_go_on = False
