"""The run's folder until the run is finished: what can be gone on with, and what a failure leaves behind."""

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transformers.trainer_callback import TrainerState
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from export.files import TuneportError
from export.manifest import RUN

SETTINGS, TEACHER, TRAINER = "settings.json", "teacher", "trainer"
STATE = "trainer_state.json"
"""What the Trainer writes last into a checkpoint."""


def check_place(out: Path) -> None:
    """Refuse, before any work, a folder that cannot be made: below a file, or where writing is not allowed."""
    parent = next(folder for folder in out.absolute().parents if folder.exists())
    if not parent.is_dir():
        raise TuneportError(f"{out} cannot be made: {parent} is a file", "choose another --out")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise TuneportError(f"{out} cannot be made: {parent} may not be written to", "choose another --out")


def last_checkpoint(out: Path, *, tidy: bool) -> Path | None:
    """Return the newest checkpoint of an unfinished run that is whole; None if it was interrupted before its first.

    `tidy` removes those that the process was killed in the middle of. Raises TuneportError for a finished run and
    for a folder without one.
    """
    if (out / RUN).is_file():
        raise TuneportError(f"{out} is finished", "give a run that was interrupted, or pass --overwrite")
    if not (out / SETTINGS).is_file():
        raise TuneportError(f"{out} holds no unfinished run", "leave out --resume to begin one")
    whole = []
    for folder in (out / TRAINER).glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
        if _is_whole(folder):
            whole.append(folder)
        elif tidy:
            shutil.rmtree(folder, ignore_errors=True)
    return max(whole, key=lambda folder: int(folder.name.rpartition("-")[2]), default=None)


def check_same(out: Path, identity: dict[str, Any], what: str) -> None:
    """Refuse to go on with something that was begun otherwise than `identity`, which SETTINGS of `out` holds."""
    try:
        begun = json.loads((out / SETTINGS).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TuneportError(f"{out / SETTINGS} does not say how it was begun ({error})", "pass --overwrite") from error
    if begun != identity:
        raise TuneportError(f"{out} was begun with other {what}", "pass the same ones, or --overwrite")


@contextlib.contextmanager
def nothing_left_of_a_failure(out: Path, *, keep: bool) -> Iterator[None]:
    """Remove the folder of a run that fails before its first checkpoint, since there is nothing in it to go on with.

    An interruption leaves it; so does `keep`.
    """
    try:
        yield
    except Exception as error:
        # A mended setting would need another teacher.
        useful = (out / TEACHER / RUN).is_file() and not isinstance(error, TuneportError)
        if not keep and not useful and not any(map(_is_whole, (out / TRAINER).glob("*"))):
            shutil.rmtree(out, ignore_errors=True)
        raise


def _is_whole(folder: Path) -> bool:
    try:
        return TrainerState.load_from_json(str(folder / STATE)).global_step > 0
    except (OSError, ValueError, TypeError):
        return False
