"""The families of metrics that the models of this process share, and the page that Prometheus reads."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tuneport.errors import TuneportError

from ..settings import METRICS_FOLDER
from .files import remove_of_ended_processes, reserve_disk_space
from .gpus import GpuCollector
from .processes import ProcessCollector

Model = tuple[str, ...]
"""The values of `MODEL_LABELS`."""
MODEL_LABELS = ("model_name", "model_version", "model_variant")
TRAFFIC_SHARE = "traffic_share"
"""The gauge that tells which versions serve in each worker."""


class Families:
    """Creates each family of metrics once; each model has its own labels in it."""

    def __init__(self, *, processes: int = 1) -> None:
        """With several processes the metrics live in files of a folder that the supervisor created."""
        # prometheus_client reads the variable when it is imported.
        if processes == 1:
            os.environ.pop("PROMETHEUS_MULTIPROC_DIR", None)
        elif folder := os.environ.get(METRICS_FOLDER):
            os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
            reserve_disk_space()
            remove_of_ended_processes(Path(folder))
        import prometheus_client as prometheus
        from prometheus_client import multiprocess

        prometheus.disable_created_metrics()  # type: ignore[no-untyped-call]
        self.prometheus = prometheus
        self._multiprocess = multiprocess
        self._has_several_processes = processes > 1
        self._registry = prometheus.CollectorRegistry()
        self._families: dict[str, Any] = {}
        self._loaded: dict[Model, int] = {}
        self._gpus: GpuCollector | None = None

    def get(self, kind: Any, name: str, text: str, labels: Sequence[str], **options: Any) -> Any:
        """Return a family of a class of prometheus_client's, which is created the first time."""
        if name not in self._families:
            self._families[name] = kind(f"tuneport_{name}", text, labels, registry=self._registry, **options)
        return self._families[name]

    def add_model(self, model: Model, gpus: Sequence[str]) -> None:
        """Show the gauges of a model from now on, and those of the GPUs that the service uses."""
        self._loaded[model] = self._loaded.get(model, 0) + 1
        if gpus and self._gpus is None:
            self._gpus = GpuCollector(gpus)

    def remove_model(self, model: Model) -> None:
        """Show the gauges of a model no more; its counters stay, as Prometheus expects of counters."""
        self._loaded[model] -= 1
        if not self._loaded[model]:
            del self._loaded[model]

    def page(self) -> tuple[bytes, str]:
        """Return the page that Prometheus reads, and its content type."""
        return self.prometheus.generate_latest(self._all()), self.prometheus.CONTENT_TYPE_LATEST

    def listen(self, port: int, host: str) -> Any:
        """Serve the page on a port of its own; returns a server with `shutdown()`."""
        try:
            return self.prometheus.start_http_server(port, host, self._all())[0]
        except OSError as error:
            problem = f"the metrics cannot listen on port {port} ({error})"
            raise TuneportError(problem, "free it, or choose another") from error

    def collect(self) -> Iterator[Any]:
        """Yield the metrics of all workers, without gauges of models that are not loaded.

        A version that answers in another worker is shown, so that a difference between workers can be seen.
        """
        source: Any = self._registry
        if self._has_several_processes:
            source = self.prometheus.CollectorRegistry()
            self._multiprocess.MultiProcessCollector(source)  # type: ignore[no-untyped-call]
        for family in source.collect():
            if family.type == "gauge":
                is_share = family.name == f"tuneport_{TRAFFIC_SHARE}"
                family.samples = [
                    each for each in family.samples if self._is_shown(each.labels) or (is_share and each.value)
                ]
            yield family

    def _is_shown(self, labels: dict[str, str]) -> bool:
        return MODEL_LABELS[0] not in labels or tuple(labels[name] for name in MODEL_LABELS) in self._loaded

    def _all(self) -> Any:
        """Return a registry of all workers' metrics, of their processes, and of the GPUs."""
        registry = self.prometheus.CollectorRegistry()
        registry.register(self)
        registry.register(ProcessCollector())
        if self._gpus:
            registry.register(self._gpus)
        return registry
