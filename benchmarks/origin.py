"""Where and when a report was made, for reports that are made at the end of their measurements."""

from datetime import UTC, datetime
from pathlib import Path
from typing import TypedDict

from tuneport.folders import git_commit
from tuneport.host import Host


class ReportOrigin(TypedDict):
    """Fields of a report."""

    host: Host
    git_commit: str | None
    """Of this checkout; None outside of one."""
    created: str
    """UTC, ISO 8601."""


def origin_here() -> ReportOrigin:
    """Return this host, this checkout's commit and the time."""
    return {
        "host": Host.here(),
        "git_commit": git_commit(Path(__file__).parent),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
