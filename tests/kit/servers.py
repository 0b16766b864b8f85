"""Servers that tests talk to."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Server:
    """A server that is running."""

    url: str
    pid: int
