"""Servers that tests talk to."""

from dataclasses import dataclass

KEY = "secret"
"""The API key of servers that have one."""


@dataclass(frozen=True)
class Server:
    """A server that is running."""

    url: str
    pid: int
