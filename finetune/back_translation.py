"""Paraphrases by way of another language: each text is translated there and back by two tuneport artifacts.

After Sennrich et al., "Improving Neural Machine Translation Models with Monolingual Data" (2016). The artifacts are
asked through the command line, as a user would: stages meet only there and in folders.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from datasets import Dataset

from export.files import ArtifactError, TuneportError
from export.manifest import load_manifest
from finetune.augment import COLUMNS
from finetune.config import FinetuneConfig

TASK = "translation"


def check_translators(config: FinetuneConfig) -> None:
    """Refuse a task whose targets lie in the words, and what is no translation artifact, before any work."""
    if config.task not in ("text-classification", "regression"):
        raise TuneportError(f"{config.task} rows lose their targets when words change", "leave out back_translation")
    for artifact in config.back_translation or ():
        task = load_manifest(Path(artifact)).task
        if task != TASK:
            raise ArtifactError(f"{artifact} is for {task}", "give two translation artifacts: there, and back")


def paraphrases(rows: Dataset, artifacts: Sequence[str]) -> Dataset:
    """Return the rows with their texts translated through `artifacts` in turn, without those that came back as is.

    A row of which a text came back empty is left out, too. Raises ArtifactError for an artifact that fails.
    """
    columns = [column for column in COLUMNS if column in rows.column_names]
    returned = {column: _through(rows[column], artifacts) for column in columns}
    kept = [
        i
        for i, row in enumerate(rows.select_columns(columns))
        if all(returned[column][i].strip() for column in columns)
        and any(returned[column][i] != row[column] for column in columns)
    ]

    def change(_: object, index: int) -> dict[str, str]:
        return {column: returned[column][index] for column in columns}

    return rows.map(change, with_indices=True, desc="back-translate").select(kept)


def _through(texts: Sequence[str], artifacts: Sequence[str]) -> list[str]:
    said = list(texts)
    for artifact in artifacts:
        lines = "".join(json.dumps({"text": text}) + "\n" for text in said)
        command = [sys.executable, "-m", "tuneport.cli", "predict", artifact]
        done = subprocess.run(command, input=lines, capture_output=True, text=True, check=False)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise ArtifactError(f"{artifact} does not translate ({last[:200]})", "try it with tuneport predict")
        said = [json.loads(line)["text"] for line in done.stdout.splitlines()]
    return said
