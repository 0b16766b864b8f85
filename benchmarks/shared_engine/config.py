"""Settings and results of the benchmark of workers that share an engine."""

from typing import Literal

from pydantic import Field

from tuneport.host import Host
from tuneport.schema.base import Frozen

from ..tiny_service.config import TinyServiceConfig

EngineKind = Literal["own", "shared", "paced"]
"""An engine in the worker; one process for all workers; the same, but each batch takes a fixed time."""


class SharedEngineConfig(TinyServiceConfig):
    """Settings of one run."""

    workers: int = Field(default=2, ge=1)
    """The largest number of workers; each number up to it is measured."""
    batch_ms: float = Field(default=5.0, gt=0)
    """Time of a batch of the paced engine."""
    batch_tokens: int = Field(default=1024, ge=1)
    """Padded tokens of a batch, for every engine."""


class CaseResult(Frozen):
    """One service: medians of the rounds."""

    engine: EngineKind
    workers: int
    requests_per_s: float
    """One text of 16 tokens a request."""
    latency_ms_p50: float
    worker_ms: float
    """Processor time of all workers, for each request."""
    engine_ms: float
    """Processor time of the engine process, for each request; 0 without one."""
    client_ms: float
    """Processor time of the load generator, for each request."""
    rows_per_batch: float
    worker_mib: float
    """Resident memory of the largest worker."""
    engine_mib: float
    """Resident memory of the engine process."""
    errors: int
    """Answers other than 200."""


class SharedEngineReport(Frozen):
    """report.json."""

    model: str
    config: SharedEngineConfig
    host: Host
    git_commit: str | None
    created: str
    cases: tuple[CaseResult, ...]
