"""The BentoML service: `bentoml serve serve.service:Tuneport`, `bentoml build`.

Which artifact it serves is the bento argument `model` (`--arg model=tuneport:1f2e3d…`); without it, the one
that was registered last. A built bento keeps the one it was built with.
"""

from pathlib import Path

import bentoml
from bentoml.models import BentoModel
from pydantic import BaseModel

from serve.bento import MODEL_NAME
from serve.http import create_app
from serve.predictor import Predictor
from serve.settings import read_settings


class Arguments(BaseModel):
    """Arguments of `bentoml serve` and `bentoml build`."""

    model: str = f"{MODEL_NAME}:latest"


arguments = bentoml.use_arguments(Arguments)
app = create_app()


@bentoml.service(name="tuneport", workers=1, traffic={"timeout": 60})
@bentoml.asgi_app(app)
class Tuneport:
    """A fine-tuned model behind `POST /predict`."""

    model = BentoModel(arguments.model)

    def __init__(self) -> None:
        """Load and prove the artifact; the worker is not ready before, and exits if it fails."""
        app.state.settings = read_settings()
        app.state.predictor = Predictor(_artifact(), app.state.settings)

    @bentoml.on_shutdown
    def stop(self) -> None:
        """Let running batches end."""
        app.state.predictor.close()


def _artifact() -> Path:
    """Find the artifact: in a bento the version it was built with, though a newer one be registered since."""
    bento = Tuneport.bento  # type: ignore[attr-defined]  # the decorator made a Service of the class
    if bento is None:
        return Path(bentoml.models.get(arguments.model).path)
    return Path(bento.info.all_models[0].to_model().resolve().path)
