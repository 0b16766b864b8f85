"""Tuneport's engine behind BentoML's own adaptive batching, as its documentation shows: `batchable=True`.

It is started by the endpoint benchmark, with the artifact's folder in `ARTIFACT` and perhaps a variant's name in
`VARIANT`. The method gets the inputs that BentoML gathered and does for them all that tuneport's batcher would:
micro-batches of like length by a budget of padded tokens, on all of the engine's streams. So the two differ in how
requests become batches, and in the door, and in nothing else.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import bentoml

from export.manifest import load_manifest
from serve.batcher import Result, plan
from serve.model import group, open_model
from serve.settings import Settings


@bentoml.service(workers=1, traffic={"timeout": 60})
class Batched:
    """Answers `{"inputs": [X]}` with `[prediction]`."""

    def __init__(self) -> None:
        """Open the variant."""
        folder = Path(os.environ["ARTIFACT"])
        manifest = load_manifest(folder)
        self.model = open_model(folder, manifest, manifest.variant(os.environ.get("VARIANT")))
        self.parameters = self.model.task.parameters()
        self.max_batch_tokens = Settings().max_batch_tokens
        self.streams = ThreadPoolExecutor(self.model.streams)

    @bentoml.api(batchable=True)
    def predict(self, inputs: list[Any]) -> list[Any]:
        """Answer what was gathered, in order."""
        task = self.model.task
        given = [task.read(each) for each in inputs]
        windows = task.encode(given)
        rows = [row for each in windows for row in each]
        batches = plan([len(row) for row in rows], self.max_batch_tokens)
        results: list[Result] = [{}] * len(rows)
        for batch, made in zip(
            batches,
            self.streams.map(lambda batch: self.model.run_batch([rows[i] for i in batch]), batches),
            strict=True,
        ):
            for i, result in zip(batch, made, strict=True):
                results[i] = result
        parts = zip(given, windows, group(results, windows), strict=True)
        return [task.decode(*part, self.parameters) for part in parts]
