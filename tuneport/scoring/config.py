"""Settings of batch scoring."""

import json
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator

from tuneport.schema.base import Frozen


class ScoreConfig(Frozen):
    """How a file is scored."""

    artifact: Path
    """An artifact folder that `tuneport export` wrote."""
    input: Path
    """The rows: a JSONL, CSV, TSV or Parquet file of any size."""
    columns: dict[str, str] = Field(default_factory=dict)
    """Field of the model's input → column of the file, where they differ."""
    keep: tuple[str, ...] = ()
    """Columns of the input to copy to the output. Default: all."""
    prediction_column: str = Field(default="prediction", min_length=1)
    """Column of the predictions; in tables also the beginning of the names of their parts' columns."""
    parameters: str = "{}"
    """The `parameters` of `POST /predict`, as a JSON object."""
    variant: str | None = None
    """The variant. Default: the artifact's default variant."""
    window_rows: int | None = Field(default=None, ge=1)
    """Rows that are sorted by length, scored and written together. Default: 2048, for generative models 64."""
    workers: int | None = Field(default=None, ge=1)
    """Processes, each with an engine of its own. Default: 1; for a GPU variant one for each GPU; with --ray one for
    each node."""
    threads: int | None = Field(default=None, ge=1)
    """Processors of a worker's engine. Default: its share of all that the container grants."""
    max_batch_tokens: int | None = Field(default=None, ge=1)
    """Padded tokens of a batch. Default: what was measured to be best at the export."""
    ray: str | None = None
    """Address of a Ray cluster whose nodes share the files' folders; `auto` for the one of this machine."""

    @field_validator("parameters")
    @classmethod
    def _is_object(cls, text: str) -> str:
        try:
            value = json.loads(text)
        except ValueError as error:
            raise ValueError("give a JSON object") from error
        if not isinstance(value, dict):
            raise ValueError("give a JSON object")
        return text

    @property
    def parameter_values(self) -> dict[str, Any]:
        """The parameters as values."""
        return dict(json.loads(self.parameters))
