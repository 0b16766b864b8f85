"""Reads a server's /metrics: how many tokens its engine has computed, and how many of them were padding."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import httpx

TOKENS, PADDING = "tuneport_tokens_total", "tuneport_padding_tokens_total"
"""Prometheus counters of the tokens that the engine computed: those of rows, and the padding of batches."""
TIMEOUT_S = 5


@dataclass(frozen=True)
class TokenCounts:
    """Tokens that an engine computed since its server started, or between two readings."""

    computed: float
    """Padding included."""
    padding: float


def read_token_counts(port: int) -> TokenCounts | None:
    """Read the counters of the server on a port; None if it has none."""
    try:
        page = httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=TIMEOUT_S).text
    except httpx.TransportError:
        return None
    tokens, padding = _sum_samples(page, TOKENS), _sum_samples(page, PADDING)
    return None if tokens is None or padding is None else TokenCounts(tokens + padding, padding)


def tokens_between(before: TokenCounts | None, after: TokenCounts | None) -> TokenCounts | None:
    """Return what was computed between two readings; None for a server without counters."""
    if before is None or after is None:
        return None
    return TokenCounts(after.computed - before.computed, after.padding - before.padding)


def padding_share(counts: Sequence[TokenCounts | None]) -> float | None:
    """Return the share of padding among all computed tokens; None if nothing is known to have been computed."""
    known = [count for count in counts if count is not None and count.computed]
    if not known:
        return None
    return round(sum(count.padding for count in known) / sum(count.computed for count in known), 4)


def _sum_samples(page: str, name: str) -> float | None:
    """Add up a counter's samples over all label values; None if there is no such counter."""
    samples = re.findall(rf"^{name}(?:\{{.*\}})? (\S+)", page, re.M)
    return sum(map(float, samples)) if samples else None
