"""Text augmentation: one more copy of each train row with words swapped, left out or replaced by synonyms.

Swap, deletion and synonym replacement are those of Wei and Zou, "EDA: Easy Data Augmentation Techniques" (2019).
"""

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from datasets import Dataset

from export.files import DataError, TuneportError
from finetune.config import FinetuneConfig

COLUMNS = ("text", "text_pair")
"""Tasks whose labels survive a change of words have their text in these; others are not augmented."""


@dataclass(frozen=True)
class Augmenter:
    """Changes the words of a text; the shares are of its words."""

    swap: float
    delete: float
    replace: float
    synonyms: Mapping[str, list[str]]
    seed: int

    @classmethod
    def from_config(cls, config: FinetuneConfig) -> Self | None:
        """Return None where the settings ask for no augmentation."""
        if not (config.augment_swap or config.augment_delete or config.augment_synonyms):
            return None
        if config.task not in ("text-classification", "regression"):
            raise TuneportError(f"{config.task} rows lose their targets when words change", "leave augment_… at 0")
        lexicon = _read_lexicon(Path(config.synonyms)) if config.synonyms else {}
        return cls(config.augment_swap, config.augment_delete, config.augment_synonyms, lexicon, config.seed)

    def copies(self, rows: Dataset) -> Dataset:
        """Return one changed copy of every row."""

        def change(row: dict[str, Any], index: int) -> dict[str, Any]:
            # A seed for each row, so that the copies don't depend on the order of work.
            chance = random.Random(f"{self.seed}:{index}")
            return {column: self.text(row[column], chance) for column in COLUMNS if column in row}

        return rows.map(change, with_indices=True, desc="augment")

    def text(self, text: str, chance: random.Random) -> str:
        """Change a text; it keeps at least one word."""
        words = text.split()
        for i, word in enumerate(words):
            known = self.synonyms.get(word.lower())
            if known and chance.random() < self.replace:
                words[i] = chance.choice(known)
        words = [word for word in words if chance.random() >= self.delete] or words[:1]
        for _ in range(round(self.swap * len(words) / 2)):
            i, j = chance.randrange(len(words)), chance.randrange(len(words))
            words[i], words[j] = words[j], words[i]
        return " ".join(words)


def _read_lexicon(path: Path) -> dict[str, list[str]]:
    try:
        lexicon = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read the lexicon {path} ({error})", 'give JSON: {"word": ["synonym", …]}') from error
    right = isinstance(lexicon, dict) and all(
        isinstance(known, list) and all(isinstance(each, str) for each in known) for known in lexicon.values()
    )
    if not right:
        raise DataError(f"{path} does not map words to lists of synonyms", 'give JSON: {"word": ["synonym", …]}')
    return {word.lower(): known for word, known in lexicon.items()}
