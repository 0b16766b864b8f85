"""Reading a server's /metrics: how many tokens its engine computed, and how many of them were padding."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import httpx

TOKENS, PADDING = "tuneport_tokens_total", "tuneport_padding_tokens_total"
"""Counters of what the engine computed: tokens of rows, and what filled them up to the longest of their batch."""


@dataclass(frozen=True)
class Padding:
    """Tokens since a server's start, or between two moments."""

    computed: float
    padded: float

    @classmethod
    def between(cls, before: Self | None, after: Self | None) -> Self | None:
        """Subtract; None where the server does not say."""
        if before is None or after is None:
            return None
        return cls(after.computed - before.computed, after.padded - before.padded)

    @staticmethod
    def share(parts: "Sequence[Padding | None]") -> float | None:
        """Return the padding's share of all that was computed."""
        known = [each for each in parts if each is not None and each.computed]
        if not known:
            return None
        return round(sum(each.padded for each in known) / sum(each.computed for each in known), 4)


def read_padding(port: int) -> Padding | None:
    """Ask a server; None if it has no such counters."""
    try:
        answer = httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=5)
    except httpx.TransportError:
        return None
    tokens, padded = (_total(answer.text, name) for name in (TOKENS, PADDING))
    return None if tokens is None or padded is None else Padding(tokens + padded, padded)


def _total(page: str, name: str) -> float | None:
    """Add up a counter's samples over all labels."""
    samples = re.findall(rf"^{name}(?:\{{.*\}})? (\S+)", page, re.M)
    return sum(map(float, samples)) if samples else None
