"""`tuneport serve` whose engine hangs as a driver does, as soon as the file that HANG names is there.

python -m kit.hanging_service ARTIFACT --host HOST --port PORT is the supervisor. Its workers run this module, too, and
its engines `kit.hanging_engine`. With HOLDS_LOCK set, the engine keeps Python's lock while it hangs.
"""

import ctypes
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tuneport.runtime.batch import EncodedInput, RowOutputs
from tuneport.runtime.runner import EncoderRunner
from tuneport.stages.serve import standalone, supervisor

HANG = "TESTS_HANG"
HOLDS_LOCK = "TESTS_HOLDS_LOCK"


def hang_when_told() -> None:
    """Replace the encoder's way to run a batch in this process."""
    compute, told = EncoderRunner.run_batch, Path(os.environ[HANG])

    def run_batch(runner: EncoderRunner, rows: Sequence[EncodedInput]) -> list[RowOutputs]:
        while told.exists():
            if os.environ.get(HOLDS_LOCK):
                ctypes.PyDLL(None).sleep(3600)
            time.sleep(0.05)
        return compute(runner, rows)

    EncoderRunner.run_batch = run_batch  # type: ignore[method-assign]


def main() -> None:
    """Run the process that the command line asks for."""
    if "--fd" not in sys.argv:
        supervisor.WORKER = "kit.hanging_service"
        supervisor.main(engine_module="kit.hanging_engine")
        return
    hang_when_told()
    standalone.main()


if __name__ == "__main__":
    main()
