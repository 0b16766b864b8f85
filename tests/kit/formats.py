"""Files of every format: written, and read as the two columns that they have."""

import gzip
import json
from pathlib import Path
from typing import Any

from tuneport.data.files import load_file

COLUMNS = ("a", "b")


def load(path: Path) -> list[dict[str, Any]]:
    """Read a file's two columns."""
    return list(load_file(path, COLUMNS).rows)


def written(path: Path, content: str | bytes) -> Path:
    """Write a file, compressed where its name says so."""
    content = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(content) if path.name.endswith(".gz") else content)
    return path


def json_lines(rows: list[dict[str, Any]]) -> str:
    """Write rows as JSON Lines."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
