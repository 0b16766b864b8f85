"""The folder of an unfinished run: checks before it is created, its checkpoints, and removal after a failure."""

import contextlib
import json
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from transformers.trainer_callback import TrainerControl, TrainerState
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from tuneport.errors import TuneportError
from tuneport.folders import check_writable
from tuneport.schema.run import RUN, SETTINGS

from .checkpoint_hashes import is_whole

TEACHER, TRAINER = "teacher", "trainer"
STATE = "trainer_state.json"
"""The file that the Trainer writes last into a checkpoint."""


def check_outside(out: Path, inputs: Iterable[str | Path | None]) -> None:
    """Refuse inputs, such as data or a base model, that lie in the output folder and would be removed with it."""
    for path in inputs:
        if path is not None and Path(path).exists() and Path(path).resolve().is_relative_to(out.resolve()):
            raise TuneportError(f"{path} lies in {out}, which is written anew", "choose another --out")


def check_can_resume(out: Path) -> None:
    """Raise TuneportError for a finished run, for a folder without a run, and for one that cannot be written."""
    if (out / RUN).is_file():
        raise TuneportError(f"{out} is finished", "give a run that was interrupted, or pass --overwrite")
    if not (out / SETTINGS).is_file():
        raise TuneportError(f"{out} holds no unfinished run", "leave out --resume to begin one")
    check_resumed_folder(out)


def check_resumed_folder(out: Path) -> None:
    """Refuse to resume what lies in a folder that cannot be written."""
    check_writable(out, f"{out} cannot be written", "make it writable, or copy it to another place")


def remove_damaged(out: Path) -> list[str]:
    """Remove checkpoints whose writing was interrupted, or that were changed since; returns their names."""
    damaged = [folder for folder in _checkpoints(out) if not _is_complete(folder)]
    for folder in damaged:
        shutil.rmtree(folder, ignore_errors=True)
    return [folder.name for folder in damaged]


def newest_checkpoint(out: Path) -> Path | None:
    """Return the newest complete checkpoint of a run; None if it was interrupted before its first one."""
    newest_first = sorted(_checkpoints(out), key=lambda folder: -int(folder.name.rpartition("-")[2]))
    return next(filter(_is_complete, newest_first), None)


def _checkpoints(out: Path) -> list[Path]:
    return list((out / TRAINER).glob(f"{PREFIX_CHECKPOINT_DIR}-*"))


def check_unchanged(out: Path, identity: dict[str, Any], what: str) -> None:
    """Refuse to resume a run or a search whose record differs from `identity`; `what` names what this comprises."""
    try:
        recorded = json.loads((out / SETTINGS).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TuneportError(f"{out / SETTINGS} cannot be read ({error})", "pass --overwrite") from error
    if recorded != identity:
        raise TuneportError(
            f"{out} was begun with other {what}{_first_difference(recorded, identity)}", "pass the same, or --overwrite"
        )


def _first_difference(recorded: Any, identity: dict[str, Any]) -> str:
    """Describe a value that differs, such as `: learning_rate was 0.001 and is 0.0001`; empty for data."""
    was, now = ({**value, **value.get("config", {})} for value in (recorded, identity))
    names = [name for name in now if name not in ("config", "data", "space") and was.get(name) != now[name]]
    return f": {names[0]} was {was.get(names[0])!r} and is {now[names[0]]!r}" if names else ""


def has_stopped(checkpoint: Path) -> bool:
    """Tell whether early stopping ended the training at a checkpoint, so that nothing is left to train."""
    control = _read_state(checkpoint).stateful_callbacks.get(TrainerControl.__name__, {})
    return bool(control.get("args", {}).get("should_training_stop"))


def _read_state(checkpoint: Path) -> TrainerState:
    return TrainerState.load_from_json(str(checkpoint / STATE))


@contextlib.contextmanager
def remove_on_failure(out: Path, *, keep: bool) -> Iterator[None]:
    """Remove a run's folder on an exception, unless it has a checkpoint to resume from or a trained teacher.

    It stays after an interruption (no Exception), and with `keep`.
    """
    try:
        yield
    except Exception as error:
        # After a TuneportError the user changes a setting, and another teacher has to be trained.
        has_teacher = (out / TEACHER / RUN).is_file() and not isinstance(error, TuneportError)
        if not keep and not has_teacher and not any(map(_may_be_complete, (out / TRAINER).glob("*"))):
            shutil.rmtree(out, ignore_errors=True)
        raise


def _is_complete(folder: Path) -> bool:
    """Tell whether a checkpoint is as it was written; raises TuneportError if it cannot be read."""
    try:
        return _read_state(folder).global_step > 0 and is_whole(folder)
    except (FileNotFoundError, NotADirectoryError, ValueError, TypeError):
        return False
    except OSError as error:
        remedy = "make it readable, or remove that folder to continue from the checkpoint before it"
        raise TuneportError(f"{folder} cannot be read ({error})", remedy) from error


def _may_be_complete(folder: Path) -> bool:
    try:
        return _is_complete(folder)
    except TuneportError:
        return True
