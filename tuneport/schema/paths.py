"""Paths that a file of someone else names, such as a manifest: each stays in its folder and means one file everywhere.

Imported while services start, so it needs only the standard library and pydantic.
"""

import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

from tuneport.errors import ArtifactError

MAX_PART_BYTES, MAX_PATH_BYTES = 255, 1024
"""Of UTF-8: a name that common file systems accept, and a path that fits below any reasonable folder."""
RESERVED = re.compile(r"(con|prn|aux|nul|clock\$|conin\$|conout\$|(com|lpt)[0-9¹²³])\s*(\..*)?", re.IGNORECASE)
"""Names of devices on Windows, with any suffix."""
FORBIDDEN = frozenset('\\:*?"<>|')
"""Separators, drive letters, streams and wildcards of Windows."""
INVISIBLE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
"""Unicode categories of what is not shown, or shown as something else: controls, direction marks, lone surrogates."""


def check_relative_path(path: str) -> str:
    """Return a path that names one file below a folder, on every system the same; raises ValueError for any other."""
    if problem := _find_problem(path):
        raise ValueError(f"{path[:200]!a} {problem}")
    return path


RelativePath = Annotated[str, AfterValidator(check_relative_path)]
"""A path below the folder of the file that names it, with `/` between its parts."""


def check_distinct(paths: Iterable[str]) -> None:
    """Raise ValueError if two different paths are one file on some system, or if one is a folder of another."""
    seen: dict[str, str] = {}
    folders: dict[str, str] = {}
    for path in dict.fromkeys(paths):
        key = _fold(path)
        if key in seen:
            raise ValueError(f"{seen[key]!r} and {path!r} are one file where case does not count")
        seen[key] = path
        parts = path.split("/")
        for end in range(1, len(parts)):
            folder = "/".join(parts[:end])
            if folders.setdefault(_fold(folder), folder) != folder:
                other = folders[_fold(folder)]
                raise ValueError(f"{other!r} and {folder!r} are one folder where case does not count")
    if both := sorted(seen.keys() & folders.keys()):
        raise ValueError(f"{seen[both[0]]!r} is a file and a folder")


def resolve_inside(folder: Path, path: str) -> Path:
    """Locate a file below `folder`; an ArtifactError if a link on the way leads out of it, or for a wrong path.

    The folder itself may be a link.
    """
    try:
        file = folder / check_relative_path(path)
        resolved, root = file.resolve(), folder.resolve()
    except ValueError as error:
        raise ArtifactError(str(error), "use files from a source that you trust") from error
    except (OSError, RuntimeError) as error:  # links in a circle
        raise ArtifactError(f"{folder / path} cannot be found ({error})", "restore it") from error
    if not resolved.is_relative_to(root):
        raise ArtifactError(f"{file} is a link out of {folder}", "put the file itself there")
    return file


def _find_problem(path: str) -> str | None:
    """Describe what makes a path unsafe or ambiguous, in words that follow the path."""
    parts = path.split("/")
    if path.startswith("/"):
        return "is an absolute path"
    if ".." in parts:
        return "leaves its folder"
    if not all(parts) or "." in parts:
        return "has an empty part"
    if bad := [char for char in path if char in FORBIDDEN or unicodedata.category(char) in INVISIBLE]:
        return f"has the character {bad[0]!a}, which not every system accepts in a name"
    if any(part != part.strip() or part.endswith(".") for part in parts):
        return "has a part with a space at an end or a dot at its end, which some systems remove"
    if any(RESERVED.fullmatch(part) for part in parts):
        return "has the name of a device on Windows"
    if unicodedata.normalize("NFC", path) != path:
        return "is not in Unicode's normal form C, to which some systems convert names"
    if len(path.encode()) > MAX_PATH_BYTES or any(len(part.encode()) > MAX_PART_BYTES for part in parts):
        return "is too long"
    return None


def _fold(path: str) -> str:
    """Return what all spellings of a path share where neither case nor compatibility forms count."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", path).casefold())
