"""An engine process whose engine stands for a GPU: each batch takes a fixed time, and hardly any processor.

Each row is computed when it comes for the first time, and its outputs are kept: workers check golden cases, and a load
repeats its texts. `PACED_BATCH_MS` has the time of a batch.
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
    compute, known = runner.run_batch, dict[tuple[int, ...], RowOutputs]()

    def run_batch(rows: Sequence[EncodedInput]) -> list[RowOutputs]:
        ends_at = time.perf_counter() + seconds
        keys = [tuple(row.ids) for row in rows]
        new = [(key, row) for key, row in zip(keys, rows, strict=True) if key not in known]
        if new:
            known.update(zip([key for key, _ in new], compute([row for _, row in new]), strict=True))
        time.sleep(max(0.0, ends_at - time.perf_counter()))
        return [known[key] for key in keys]

    setattr(runner, "run_batch", run_batch)  # noqa: B010


if __name__ == "__main__":
    main(adapt=pace)
