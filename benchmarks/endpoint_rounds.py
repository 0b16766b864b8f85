"""The rounds of the endpoint benchmark: one server at a time, started, checked, loaded and stopped."""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from benchmarks.baselines import find_origin
from benchmarks.endpoint_check import agreement, ask_each, changed, expect
from benchmarks.endpoint_contenders import HOST, HTTP, Contender, contenders, null
from benchmarks.endpoint_metrics import Padding, read_padding
from benchmarks.endpoint_processes import Usage, run_load, usage_of
from benchmarks.endpoint_report import Ceiling, Level, Overload, Short, Standing
from benchmarks.endpoint_short import choose_short, time_engine
from benchmarks.engine import BenchConfig, read_workload
from benchmarks.load import OK, Plan, Tally
from export.files import TuneportError
from export.machine import Frozen
from export.manifest import Manifest, check_files, load_golden, load_manifest
from serve.model import open_model
from serve.process import free_port, running

SAMPLE = 50
"""Inputs whose answers under load are compared with those alone."""
MOST_OPEN = 2048
"""Connections of the open loop; more would be the client's problem, not the server's."""
WARM_UP_S = 1.0


class EndpointConfig(Frozen):
    """One benchmark."""

    artifact: Path
    data: str | None = None
    columns: dict[str, str] = Field(default_factory=dict)
    checkpoint: Path | None = None
    """Unset: the folder that the artifact was exported from."""
    variant: str | None = None
    connections: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)] = (1, 8, 32)
    seconds: Annotated[float, Field(gt=0)] = 10.0
    """Of each level, after the warm-up."""
    rounds: Annotated[int, Field(ge=1)] = 3
    texts: Annotated[int, Field(ge=1)] = 1000


@dataclass(frozen=True)
class _Server:
    pid: int
    port: int
    """The one to ask."""
    http_port: int
    ready_s: float


@dataclass
class _Record:
    """What the rounds gathered about one contender."""

    agreement: float = 0.0
    changed: int = 0
    ready_s: list[float] = field(default_factory=list)
    usages: list[Usage] = field(default_factory=list)
    tallies: dict[int, list[Tally]] = field(default_factory=dict)
    cpu_ms: dict[int, list[float]] = field(default_factory=dict)
    paddings: dict[int, list[Padding | None]] = field(default_factory=dict)


class EndpointBench:
    """One benchmark at work."""

    def __init__(self, config: EndpointConfig, progress: Callable[[str], object]) -> None:
        """Read and prove everything that needs no server."""
        self.config, self.progress = config, progress
        self.manifest: Manifest = load_manifest(config.artifact)
        check_files(config.artifact, self.manifest)
        self.variant = self.manifest.variant(config.variant)
        origin = find_origin(self.manifest, config.checkpoint)
        self.sample = read_workload(
            self.manifest,
            origin.task,
            BenchConfig(artifact=config.artifact, data=config.data, columns=config.columns, texts=config.texts),
        )
        self.model = open_model(config.artifact, self.manifest, self.variant)
        task = self.model.task
        windows = task.encode([task.read(each) for each in self.sample.inputs])
        self.mean_tokens = float(np.mean([sum(map(len, rows)) for rows in windows]))
        self.expected = expect(task, load_golden(config.artifact))
        self.contenders = contenders(config.artifact, self.manifest, origin.checkpoint.folder, config.variant)
        self.records = {each.name: _Record() for each in self.contenders}

    def rounds(self) -> None:
        """Let every contender have its turns, every other round in the opposite order."""
        for turn in range(self.config.rounds):
            for contender in self.contenders[:: 1 if turn % 2 == 0 else -1]:
                self.progress(f"round {turn + 1} of {self.config.rounds}: {contender.name}")
                self._turn(contender, self.records[contender.name])

    def ceilings(self) -> tuple[Ceiling, ...]:
        """Measure the load itself against a server that does nothing."""
        self.progress("the load against a server that does nothing")
        with self._started(null()) as server:
            tallies = [
                (n, self._load(null(), server.port, n, seconds=min(3.0, self.config.seconds))) for n in self._levels
            ]
        return tuple(
            Ceiling(
                connections=connections,
                requests_per_s=round(tally.answered / tally.seconds, 1),
                client_cpu_ms_per_request=round(1000 * tally.client_cpu_s / max(1, tally.answered), 4),
            )
            for connections, tally in tallies
        )

    def overload(self) -> Overload:
        """Offer twice what the HTTP door carried at its best level."""
        best = max(self.standing(HTTP).levels, key=lambda level: level.requests_per_s)
        offered = 2 * best.requests_per_s
        self.progress(f"overload: {offered:.0f} requests/s")
        ours = self.contenders[0]
        with self._started(ours) as server:
            plan = self._plan(ours, server.port, MOST_OPEN, self.config.seconds)
            tally = run_load(plan.model_copy(update={"requests_per_s": offered}))
        return Overload(
            offered_per_s=offered,
            goodput_per_s=round(tally.answered / tally.seconds, 1),
            best_per_s=best.requests_per_s,
            latency_ms_p99=_percentile([tally], 99),
            full_load_ms_p99=best.latency_ms_p99,
            statuses=tally.statuses,
        )

    def short(self) -> Short | None:
        """Time one short text on one connection beside the engine alone; None where inputs are no plain texts."""
        chosen = choose_short(self.model.task, self.sample.inputs)
        if chosen is None:
            return None
        self.progress("one short text")
        text, row = chosen
        ours = self.contenders[0]
        engine_ms, engine_cpu_ms = time_engine(self.model, row, min(3.0, self.config.seconds))
        with self._started(ours) as server:
            before = usage_of(server.pid)
            tally = self._load(ours, server.port, 1, inputs=[text])
            cpu_s = usage_of(server.pid).cpu_s - before.cpu_s
        return Short(
            tokens=len(row),
            latency_ms_p50=_percentile([tally], 50),
            engine_ms_p50=engine_ms,
            cpu_ms_per_request=round(1000 * cpu_s / max(1, tally.sent), 3),
            engine_cpu_ms=engine_cpu_ms,
        )

    def standing(self, name: str) -> Standing:
        """Sum up a contender's rounds."""
        record = self.records[name]
        return Standing(
            name=name,
            agreement=round(record.agreement, 4),
            changed_under_load=record.changed,
            ready_s=round(float(np.median(record.ready_s)), 2),
            worker_mib=round(max(each.worker_mib for each in record.usages), 1),
            total_mib=round(max(each.total_mib for each in record.usages), 1),
            levels=tuple(_level(record, connections) for connections in self._levels),
        )

    @property
    def _levels(self) -> tuple[int, ...]:
        return self.config.connections

    def _turn(self, contender: Contender, record: _Record) -> None:
        task = self.model.task
        with self._started(contender) as server:
            record.ready_s.append(server.ready_s)
            record.agreement = agreement(contender, server.port, task, self.expected)
            alone = ask_each(contender, server.port, self.sample.inputs[:SAMPLE])
            for connections in self._levels:
                before, padded = usage_of(server.pid), read_padding(server.http_port)
                tally = self._load(contender, server.port, connections)
                used_s = usage_of(server.pid).cpu_s - before.cpu_s
                record.tallies.setdefault(connections, []).append(tally)
                record.cpu_ms.setdefault(connections, []).append(1000 * used_s / tally.sent)
                padding = Padding.between(padded, read_padding(server.http_port))
                record.paddings.setdefault(connections, []).append(padding)
                record.changed += changed(contender, task, alone, tally.last_bodies)
            record.usages.append(usage_of(server.pid))

    def _load(
        self,
        contender: Contender,
        port: int,
        connections: int,
        *,
        seconds: float | None = None,
        inputs: Sequence[Any] | None = None,
    ) -> Tally:
        tally = run_load(self._plan(contender, port, connections, seconds or self.config.seconds, inputs))
        if not tally.answered:
            raise TuneportError(
                f"{contender.name} answered nothing in {tally.seconds:g} s: statuses {tally.statuses}",
                "raise --seconds; if there are errors, start it by hand and look at its log",
            )
        return tally

    def _plan(
        self, contender: Contender, port: int, connections: int, seconds: float, inputs: Sequence[Any] | None = None
    ) -> Plan:
        return Plan(
            protocol=contender.protocol,
            host=HOST,
            port=port,
            path=contender.path,
            bodies=tuple(contender.body(each) for each in inputs or self.sample.inputs),
            connections=connections,
            seconds=seconds,
            warm_up_s=WARM_UP_S,
        )

    @contextlib.contextmanager
    def _started(self, contender: Contender) -> Iterator[_Server]:
        """Run a server for as long as the block lasts."""
        started = time.perf_counter()
        port, grpc_port = free_port(), free_port()
        environment = {"TUNEPORT_GRPC_PORT": str(grpc_port), **contender.environment}
        with running(contender.command(port), f"http://{HOST}:{port}", environment) as pid:
            asked = grpc_port if contender.protocol == "grpc" else port
            yield _Server(pid, asked, port, time.perf_counter() - started)


def _level(record: _Record, connections: int) -> Level:
    tallies = record.tallies[connections]
    return Level(
        connections=connections,
        requests_per_s=round(float(np.median([each.answered / each.seconds for each in tallies])), 1),
        latency_ms_p50=_percentile(tallies, 50),
        latency_ms_p95=_percentile(tallies, 95),
        latency_ms_p99=_percentile(tallies, 99),
        errors=sum(count for each in tallies for status, count in each.statuses.items() if status != OK),
        cpu_ms_per_request=round(float(np.median(record.cpu_ms[connections])), 3),
        padding_share=Padding.share(record.paddings[connections]),
        client_cpu_share=round(max(each.client_cpu_s / each.seconds for each in tallies), 3),
    )


def _percentile(tallies: Sequence[Tally], percent: float) -> float:
    together = np.concatenate([each.latencies_ms for each in tallies])
    return round(float(np.percentile(together, percent)), 3) if len(together) else float("inf")
