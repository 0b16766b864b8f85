"""An engine process whose engine stands for a GPU: each batch takes a fixed time, and no processor.

Its outputs are those of one row, for every row. `PACED_BATCH_MS` has the time of a batch.
"""

import os
import time
from collections.abc import Sequence

from tuneport.runtime.batch import EncodedInput, RowOutputs
from tuneport.stages.serve.inference import Inference
from tuneport.stages.serve.shared_engine.process import main

BATCH_MS = "PACED_BATCH_MS"


def pace(inference: Inference) -> None:
    """Replace the engine of an artifact that has been opened and checked."""
    runner, seconds = inference.predictor.runner, float(os.environ[BATCH_MS]) / 1000
    [[row]] = runner.task.encode([runner.task.parse_input("word0")])
    [outputs] = runner.run_batch([row])

    def run_batch(rows: Sequence[EncodedInput]) -> list[RowOutputs]:
        time.sleep(seconds)
        return [outputs] * len(rows)

    setattr(runner, "run_batch", run_batch)  # noqa: B010


if __name__ == "__main__":
    main(adapt=pace)
