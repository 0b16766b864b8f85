"""Rows of any length for step `speed`, made of real tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tuneport.runtime.batch import EncodedInput
from tuneport.runtime.runner import ModelRunner
from tuneport.schema.loading import load_golden

from .config import MEAN_TOKENS

SEED = 0
SPREAD = 0.6
"""Standard deviation of the logarithm of mixed lengths: short texts and a few long ones."""
SHORTEST, LONGEST = 6, 128


@dataclass(frozen=True)
class Rows:
    """Makes rows of any length from real tokens."""

    first: int
    last: int
    body: Sequence[int]

    @classmethod
    def of_golden(cls, runner: ModelRunner, artifact: Path) -> "Rows":
        """Take the tokens of the golden cases."""
        task = runner.task
        windows = task.encode([task.parse_input(case.input) for case in load_golden(artifact)])
        rows = [row for each in windows for row in each if len(row) > 2]
        return cls(rows[0].ids[0], rows[0].ids[-1], [token for row in rows for token in row.ids[1:-1]])

    def make(self, length: int, offset: int) -> EncodedInput:
        """Return a row of `length` tokens, special tokens included; `offset` decides which."""
        body = [self.body[(offset * 7 + i) % len(self.body)] for i in range(length - 2)]
        return EncodedInput([self.first, *body, self.last], [0] * length, False)


def mixed_lengths(count: int, longest: int) -> list[int]:
    """Return `count` seeded lengths with a mean of about `MEAN_TOKENS`."""
    generator = np.random.default_rng(SEED)
    drawn = generator.lognormal(0.0, SPREAD, count)
    for _ in range(20):  # cutting lowers the mean
        lengths = np.clip(np.round(drawn), SHORTEST, longest)
        drawn = drawn * min(MEAN_TOKENS, 0.8 * longest) / lengths.mean()
    return [int(length) for length in np.clip(np.round(drawn), SHORTEST, longest)]
