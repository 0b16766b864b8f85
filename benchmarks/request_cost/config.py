"""Settings and results of the benchmark of the cost of a request."""

from typing import Any

from pydantic import Field, field_validator

from tuneport.host import Host
from tuneport.schema.base import Frozen

from ..tiny_service.config import TinyServiceConfig
from .layers import LayerCost


class RequestCostConfig(TinyServiceConfig):
    """Settings of one run."""

    servers: tuple[str, ...] = ()
    """Servers to start beside the bare one: parts of their names, separated by semicolons. Default: all."""
    texts: int = Field(default=64, ge=1)
    """Texts of a large request."""

    @field_validator("servers", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return [name.strip() for name in value.split(";") if name.strip()] if isinstance(value, str) else value


class EngineResult(Frozen):
    """The engine alone, in the benchmark's process."""

    latency_ms_p50: float
    """One text of 16 tokens that is already tokenized."""
    texts_per_s: float
    """Tokenized texts, as many at a time as a large request has."""
    texts_per_s_from_text: float
    """The same from text to label: parsing, tokenizing and decoding included."""
    memory_mib: float
    """Memory that the variant took when it was exported."""


class ServerResult(Frozen):
    """One server: medians of the rounds."""

    name: str
    requests_per_s: float
    """One text a request, many connections."""
    cpu_ms_per_request: float
    """Processor time of all processes of the server, the engine's included, at the same load."""
    latency_ms_p50: float
    """One text a request, one connection."""
    texts_per_s: float | None
    """Many texts a request, four connections; None over gRPC."""
    ready_s: float
    """From the command to 200 at /readyz."""
    worker_mib: float
    """Resident memory of the largest process after the load."""
    total_mib: float
    """The same of all processes; shared pages count once for each."""
    errors: int
    """Answers other than 200."""


class RequestCostReport(Frozen):
    """report.json."""

    model: str
    config: RequestCostConfig
    host: Host
    git_commit: str | None
    created: str
    engine: EngineResult
    servers: tuple[ServerResult, ...]
    """The bare server first."""
    layers: tuple[LayerCost, ...]
    """Where the time of one request goes."""
