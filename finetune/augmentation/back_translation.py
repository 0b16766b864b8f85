"""Back-translation: paraphrases of texts, translated to another language and back by two tuneport artifacts.

Sennrich et al., "Improving Neural Machine Translation Models with Monolingual Data" (2016). The artifacts run through
the command line, since stages meet only there and in folders.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from datasets import Dataset

from tuneport.errors import ArtifactError, TuneportError
from tuneport.schema.loading import load_manifest
from tuneport.tasks import task_spec

from ..config import FinetuneConfig
from .token_edits import TEXT_COLUMNS

TRANSLATION = "translation"


def check_translators(config: FinetuneConfig) -> None:
    """Refuse tasks whose targets depend on the words, and artifacts that do not translate, before any work."""
    if not task_spec(config.task).keeps_targets_when_words_change:
        raise TuneportError(f"{config.task} rows lose their targets when words change", "leave out back_translation")
    for artifact in config.back_translation or ():
        task = load_manifest(Path(artifact)).task
        if task != TRANSLATION:
            raise ArtifactError(f"{artifact} is for {task}", "give two translation artifacts: there, and back")


def back_translate(rows: Dataset, artifacts: Sequence[str]) -> Dataset:
    """Return the rows with their texts translated by each of the `artifacts` in turn.

    Rows that are unchanged, or have an empty text, are left out. Raises ArtifactError for an artifact that fails.
    """
    columns = [column for column in TEXT_COLUMNS if column in rows.column_names]
    translated = {column: _translate(rows[column], artifacts) for column in columns}
    kept = [
        i
        for i, row in enumerate(rows.select_columns(columns))
        if all(translated[column][i].strip() for column in columns)
        and any(translated[column][i] != row[column] for column in columns)
    ]

    def replace_texts(_: object, index: int) -> dict[str, str]:
        return {column: translated[column][index] for column in columns}

    return rows.map(replace_texts, with_indices=True, desc="back-translate").select(kept)


def _translate(texts: Sequence[str], artifacts: Sequence[str]) -> list[str]:
    translated = list(texts)
    for artifact in artifacts:
        lines = "".join(json.dumps({"text": text}) + "\n" for text in translated)
        command = [sys.executable, "-m", "tuneport", "predict", artifact]
        done = subprocess.run(command, input=lines, capture_output=True, text=True, check=False)
        if done.returncode:
            last_line = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise ArtifactError(f"{artifact} does not translate ({last_line[:200]})", "try it with tuneport predict")
        translated = [json.loads(line)["text"] for line in done.stdout.splitlines()]
    return translated
