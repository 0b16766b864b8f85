"""The settings that every benchmark of a tiny model's service has."""

from pathlib import Path

from pydantic import Field

from tuneport.schema.base import Frozen


class TinyServiceConfig(Frozen):
    """Settings of one run."""

    out: Path
    """The report's folder; a report in it is replaced."""
    artifact: Path | None = None
    """A text classifier to serve. Default: the tiny model, exported anew."""
    rounds: int = Field(default=3, ge=1)
    """Times that each load runs; every other round in the opposite order."""
    seconds: float = Field(default=4.0, gt=0)
    """Seconds of each load in each round."""
    connections: int = Field(default=32, ge=1)
    """Connections of a load, each of which sends its next request when it has the answer to the last one."""
