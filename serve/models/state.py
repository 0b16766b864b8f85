"""The file in the folder of a service's processes that says which artifacts serve."""

import json
import os
from pathlib import Path

from tuneport.folders import sha256
from tuneport.schema.artifact import MANIFEST

from ..supervision import RUN_FOLDER

STATE = "models.json"


def write_serving(folder: Path, artifacts: list[Path]) -> None:
    """Write the artifacts that serve, the default model's first, into the folder of the service's processes."""
    path = folder / f"{STATE}.new"
    content = [(str(each), sha256(each / MANIFEST)) for each in artifacts]
    path.write_text(json.dumps(content), encoding="utf-8")
    path.replace(folder / STATE)


def read_serving() -> list[tuple[Path, str]]:
    """Read what `write_serving` wrote, with the hash of each manifest; empty where nothing was written."""
    folder = os.environ.get(RUN_FOLDER)
    path = Path(folder, STATE) if folder else None
    if path is None or not path.exists():
        return []
    return [(Path(each), expected) for each, expected in json.loads(path.read_text(encoding="utf-8"))]
