"""A service whose engine fails as a GPU does: for `bentoml serve kit.failing_service:Failing`.

The file that FAILURE names holds the text of the exception; the first worker that finds it there removes it and fails.
"""

import contextlib
import os
from pathlib import Path
from typing import Any

import bentoml

from tuneport.runtime.batch import Batch
from tuneport.runtime.runner import EncoderRunner
from tuneport.stages.serve import service
from tuneport.stages.serve.inference import Inference
from tuneport.stages.serve.settings import Settings

FAILURE = "TESTS_DEVICE_FAILURE"


@bentoml.service(name="failing", **service.bentoml_settings(service.settings))
@bentoml.asgi_app(service.worker_app)
class Failing(service.ModelService):
    """The service with an engine that can lose its device."""

    def open_inference(self, artifact: Path, settings: Settings) -> Inference:
        inference = super().open_inference(artifact, settings)
        runner = inference.predictor.runner
        assert isinstance(runner, EncoderRunner)
        run, failure = runner.backend.run, Path(os.environ[FAILURE])
        lost: list[str] = []

        def run_or_fail(batch: Batch) -> Any:
            with contextlib.suppress(OSError):
                text = failure.read_text()
                failure.unlink()
                lost.append(text)
            if lost:  # as CUDA's context: everything that follows fails, too
                raise RuntimeError(lost[0])
            return run(batch)

        runner.backend.run = run_or_fail  # type: ignore[method-assign]
        return inference
