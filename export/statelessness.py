"""Check that a model's outputs do not depend on what it saw before, so that its graph can have the same outputs.

BigBird, for example, gives up sparse attention for good at its first short text; and some models draw random numbers.
"""

from collections.abc import Sequence

import numpy as np

from tuneport.errors import CheckpointError
from tuneport.runtime.batch import RowOutputs
from tuneport.runtime.golden import difference
from tuneport.runtime.tasks.base import RuntimeTask
from tuneport.schema.artifact import GoldenCase

from .architectures import other_architecture
from .checkpoint import Checkpoint
from .reference import TorchModel

SAME = 1e-3
"""As a share of the largest output: far more than rounding, and what the gate lets an exact variant differ."""


def check_stateless(
    checkpoint: Checkpoint, runtime_task: RuntimeTask, used: TorchModel, golden: Sequence[GoldenCase]
) -> None:
    """Ask models that were just loaded, and the one that was `used` on all other inputs, for golden cases again.

    One case of each batch is asked, and so an input of each length. Raises CheckpointError, which names the
    architecture, if an answer differs from the golden one.
    """
    for case in {case.batch: case for case in golden}.values():
        parsed_inputs = [runtime_task.parse_input(case.input)]
        fresh = used.reloaded()
        first, second, later = (model.outputs(runtime_task, parsed_inputs)[0] for model in (fresh, fresh, used))
        if not all(np.isfinite(values).all() for row in first for values in row.values()):
            raise _error(checkpoint, case, "its outputs are not finite")
        if not _are_same(first, second):
            raise _error(checkpoint, case, "it gives another answer when it is asked again")
        if not (_are_same(first, case.outputs) and _are_same(later, case.outputs)):
            raise _error(checkpoint, case, "its answer depends on the inputs that it saw before")


def _are_same(outputs: Sequence[RowOutputs], others: Sequence[RowOutputs]) -> bool:
    largest = max((float(np.abs(values).max(initial=0)) for row in outputs for values in row.values()), default=0.0)
    return difference(outputs, others) <= SAME * max(1.0, largest)


def _error(checkpoint: Checkpoint, case: GoldenCase, reason: str) -> CheckpointError:
    problem = f"{checkpoint.config.model_type} cannot be exported faithfully: {reason} (on {str(case.input)[:40]!r})"
    return CheckpointError(problem, other_architecture(checkpoint.task))
