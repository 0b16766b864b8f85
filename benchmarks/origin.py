"""Where and when a report was made, for every report."""

from datetime import UTC, datetime
from pathlib import Path
from typing import TypedDict

from tuneport.folders import git_commit
from tuneport.host import Host


class Origin(TypedDict):
    """Fields of a report."""

    host: Host
    git_commit: str | None
    """Of this checkout; None outside of one."""
    created: str
    """UTC, ISO 8601."""


def origin_here() -> Origin:
    """Return this host, this checkout's commit and the time."""
    return {
        "host": Host.here(),
        "git_commit": git_commit(Path(__file__).parent),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
