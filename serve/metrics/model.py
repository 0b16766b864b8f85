"""The metrics of one version of a model. With several workers prometheus_client adds up those of all."""

from ..devices import Placement
from .answers import AnswerMetrics
from .engine import EngineMetrics
from .families import MODEL_LABELS, Families
from .labelled import LabelledFamilies
from .requests import RequestMetrics
from .traffic import TrafficMetrics


class Metrics:
    """The metrics of both protocols and of the engine, labelled with the model's name, version and variant."""

    def __init__(self, model: dict[str, str], families: Families, placement: Placement | None = None) -> None:
        """Create the metrics of a model, as `Predictor.describe` names it, whose engine runs at `placement`."""
        placement = placement or Placement()
        labelled = LabelledFamilies(model, families, placement)
        self.requests = RequestMetrics(labelled)
        self.answers = AnswerMetrics(labelled)
        self.traffic = TrafficMetrics(labelled)
        self.engine = EngineMetrics(labelled) if placement.has_engine else None
        """None where the engine is in another process, which reports it."""
        self._families = families
        self._model = labelled.model
        families.add_model(self._model, placement.gpus)

    @property
    def labels(self) -> dict[str, str]:
        """The labels of the model's metrics."""
        return dict(zip(MODEL_LABELS, self._model, strict=True))

    def remove(self) -> None:
        """Show the model's gauges no more: it was unloaded."""
        self._families.remove_model(self._model)

    def page(self) -> tuple[bytes, str]:
        """Return the page that Prometheus reads, of all models, and its content type."""
        return self._families.page()
