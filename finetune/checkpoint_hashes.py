"""Hashes of the files of a training checkpoint, so that a run does not resume from one that was cut or changed."""

import json
from pathlib import Path
from typing import Any

from transformers import TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from tuneport.folders import sha256

HASHES = "sha256.json"
OF_EACH_PROCESS = "rng_state_*"
"""What each process of a distributed training writes for itself, maybe later than the main one."""


class RecordHashes(TrainerCallback):
    """Writes the hashes after the Trainer has written a checkpoint."""

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Hash the checkpoint of this step, in the main process."""
        folder = Path(args.output_dir, f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}")
        if state.is_world_process_zero and folder.is_dir():
            record_hashes(folder)


def record_hashes(folder: Path) -> None:
    """Write the hash of each file of a checkpoint beside them, in one step."""
    files = [path for path in folder.rglob("*") if path.is_file() and not path.match(OF_EACH_PROCESS)]
    hashes = {str(path.relative_to(folder)): sha256(path) for path in files}
    partial = folder / f".{HASHES}"
    partial.write_text(json.dumps(hashes), encoding="utf-8")
    partial.replace(folder / HASHES)


def is_whole(folder: Path) -> bool:
    """Tell whether all files are there as they were written; a checkpoint without hashes counts as whole.

    It has none if the run was killed between the checkpoint and its hashes. Raises OSError for a file that cannot be
    read, which may be whole.
    """
    try:
        hashes = json.loads((folder / HASHES).read_text(encoding="utf-8"))
        return all(sha256(folder / name) == expected for name, expected in hashes.items())
    except FileNotFoundError:
        return not (folder / HASHES).exists()
    except (ValueError, AttributeError):
        return False
