"""What the workers of batch scoring are told."""

from dataclasses import dataclass
from pathlib import Path

from tuneport.scoring.config import ScoreConfig
from tuneport.scoring.inputs import InputColumns
from tuneport.scoring.writers import Layout


@dataclass(frozen=True)
class Plan:
    """What a worker needs to know; it is sent to other processes."""

    config: ScoreConfig
    variant: str
    columns: InputColumns
    layout: Layout
    folder: Path
    """Where the parts of the output are written."""
    threads: int | None
