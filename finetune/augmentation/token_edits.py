"""Text augmentation: one more copy of each train row with words swapped, deleted or replaced by synonyms.

Swap, deletion and synonym replacement are those of Wei and Zou, "EDA: Easy Data Augmentation Techniques" (2019).
"""

import json
import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

from datasets import Dataset

from tuneport.errors import DataError, TuneportError
from tuneport.scripts import CHARACTER, UNSPACED
from tuneport.tasks import task_spec

from ..config import FinetuneConfig

TEXT_COLUMNS = ("text", "text_pair")
"""Columns whose words may change, of tasks that keep their targets then."""
PIECE = re.compile(rf"{CHARACTER}|[^{UNSPACED}]+")


@dataclass(frozen=True)
class Augmenter:
    """Changes the words of a text; swap, delete and replace are shares of its words."""

    swap: float
    delete: float
    replace: float
    synonyms: Mapping[str, list[str]]
    seed: int

    @classmethod
    def from_config(cls, config: FinetuneConfig) -> Self | None:
        """Build it from the settings; None if they ask for no augmentation."""
        if not (config.augment_swap or config.augment_delete or config.augment_synonyms):
            return None
        if not task_spec(config.task).keeps_targets_when_words_change:
            raise TuneportError(f"{config.task} rows lose their targets when words change", "leave augment_… at 0")
        lexicon = _read_lexicon(Path(config.synonyms)) if config.synonyms else {}
        return cls(config.augment_swap, config.augment_delete, config.augment_synonyms, lexicon, config.seed)

    def augment_rows(self, rows: Dataset) -> Dataset:
        """Return one changed copy of every row."""

        def change(row: dict[str, Any], index: int) -> dict[str, Any]:
            # A seed for each row, so that the copies do not depend on the order of work.
            generator = random.Random(f"{self.seed}:{index}")
            return {column: self.augment_text(row[column], generator) for column in TEXT_COLUMNS if column in row}

        return rows.map(change, with_indices=True, desc="augment")

    def augment_text(self, text: str, generator: random.Random) -> str:
        """Change the words of a text, of which at least one is kept.

        In scripts without spaces a word is one that the lexicon has, the longest at its place, or a single character.
        """
        words, gaps = self._split(text)
        for i, word in enumerate(words):
            synonyms = self.synonyms.get(word.lower())
            if synonyms and generator.random() < self.replace:
                words[i] = generator.choice(synonyms)
        kept = [i for i in range(len(words)) if generator.random() >= self.delete] or [0] * bool(words)
        # A space stays where words are deleted on one side of it.
        gaps = [max(gaps[before + 1 : i + 1]) for before, i in pairwise([-1, *kept])]
        words = [words[i] for i in kept]
        for _ in range(round(self.swap * len(words) / 2)):
            i, j = generator.randrange(len(words)), generator.randrange(len(words))
            words[i], words[j] = words[j], words[i]
        return "".join(gap + word for gap, word in zip(gaps, words, strict=True)).strip()

    def _split(self, text: str) -> tuple[list[str], list[str]]:
        """Split a text into words, each with the space before it, or the empty string where there is none."""
        words, gaps = [], []
        for part in text.split():
            pieces = list(self._pieces(part))
            words += pieces
            gaps += [" ", *[""] * (len(pieces) - 1)]
        return words, gaps

    def _pieces(self, part: str) -> Iterator[str]:
        """Yield the words of a text without spaces."""
        characters = PIECE.findall(part)
        longest = max(map(len, self.synonyms), default=1)
        start = 0
        while start < len(characters):
            ends = range(min(len(characters), start + longest), start, -1)
            end = next((end for end in ends if "".join(characters[start:end]).lower() in self.synonyms), start + 1)
            yield "".join(characters[start:end])
            start = end


def _read_lexicon(path: Path) -> dict[str, list[str]]:
    """Read word → synonyms, the words in lower case."""
    try:
        lexicon = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read the lexicon {path} ({error})", 'give JSON: {"word": ["synonym", …]}') from error
    is_valid = isinstance(lexicon, dict) and all(
        isinstance(synonyms, list) and all(isinstance(word, str) for word in synonyms) for synonyms in lexicon.values()
    )
    if not is_valid:
        raise DataError(f"{path} does not map words to lists of synonyms", 'give JSON: {"word": ["synonym", …]}')
    return {word.lower(): synonyms for word, synonyms in lexicon.items()}
