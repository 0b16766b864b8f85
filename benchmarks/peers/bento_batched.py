"""tuneport's service with BentoML's adaptive batching in place of tuneport's batcher.

    bentoml serve tuneport.stages.benchmarks.peers.bento_batched:BentoBatched --arg model=TAG

The settings are those of `tuneport.stages.serve.service`; limits of the queue have no effect, see `BentoBatcher`.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import bentoml

from tuneport.stages.serve.service import ModelService, bentoml_settings, settings, worker_app

if TYPE_CHECKING:
    from tuneport.stages.serve.inference import Inference
    from tuneport.stages.serve.settings import Settings


@bentoml.service(name="tuneport_bento_batched", **bentoml_settings(settings))
@bentoml.asgi_app(worker_app)
class BentoBatched(ModelService):
    """The endpoints of `Tuneport` in front of a `BentoBatcher`."""

    def open_inference(self, artifact: Path, settings: "Settings") -> "Inference":
        """Open the artifact in one stream on all cores: BentoML's batcher runs one batch at a time."""
        # Imported here, as in the service: BentoML's supervisor imports this module, too.
        from tuneport.stages.serve.inference import Inference

        from .bento_batcher import BentoBatcher

        return Inference.open(artifact, settings, streams=1, make_batcher=BentoBatcher)
