"""The models that a worker serves, by name, and which version of a model answers a request."""

import hashlib
import random
from collections.abc import Iterator, Mapping

from tuneport.errors import NotFound

from ..admission import AdmissionController
from ..worker_state import WorkerState
from .shadow import Shadow

STICKY_HEADER = "x-tuneport-key"
"""Requests with the same value of this header, or metadata, are answered by the same version."""


class Model:
    """A model's versions: the one that serves, and one that takes a share of the requests or shadows it."""

    def __init__(self, serving: AdmissionController) -> None:
        """Serve one version."""
        self.name = serving.manifest.name
        self.serving = serving
        self.candidate: AdmissionController | None = None
        """The version that takes the share `weight` of the requests."""
        self.weight = 0.0
        self.shadow: AdmissionController | None = None
        """The version whose answers are only compared."""
        self.shadow_share = 1.0
        serving.metrics.traffic.share(1)

    def assign(
        self,
        serving: AdmissionController,
        candidate: AdmissionController | None,
        weight: float,
        shadow: AdmissionController | None,
        shadow_share: float,
    ) -> None:
        """Give each version its traffic; a shadow that stays keeps the copies that wait for it."""
        if (serving, shadow, shadow_share) != (self.serving, self.shadow, self.shadow_share):
            self.serving.observe = None
            serving.observe = Shadow(shadow, shadow_share) if shadow else None
        self.serving, self.candidate, self.weight = serving, candidate, weight
        self.shadow, self.shadow_share = shadow, shadow_share
        serving.metrics.traffic.share(1 - weight)
        if candidate:
            candidate.metrics.traffic.share(weight)
        if shadow:
            shadow.metrics.traffic.share(0)

    @property
    def versions(self) -> tuple[AdmissionController, ...]:
        """The versions that are loaded, the one that serves first."""
        return (self.serving, *(each for each in (self.candidate, self.shadow) if each))

    def choose(self, headers: Mapping[str, str]) -> AdmissionController:
        """Return the version that answers a request which names none."""
        if self.candidate is None:
            return self.serving
        key = headers.get(STICKY_HEADER)
        place = random.random() if key is None else place_of(self.name, key)
        return self.candidate if place < self.weight else self.serving

    def version(self, version: str) -> AdmissionController | None:
        """Return a version that is loaded, None for another."""
        return next((each for each in self.versions if each.manifest.version == version), None)


class ModelRegistry:
    """The models of a worker; the first one answers requests that name none."""

    def __init__(self, *admissions: AdmissionController) -> None:
        """Serve one version of each model."""
        self._models = {admission.manifest.name: Model(admission) for admission in admissions}
        self.default = next(iter(self._models.values()))
        self.worker: WorkerState = self.default.serving.worker
        self.failures: dict[tuple[str, str], str] = {}
        """Why versions were not loaded, by name and version."""
        self.loading: set[tuple[str, str]] = set()
        """Names and versions that are being opened."""

    def __iter__(self) -> Iterator[Model]:
        return iter(tuple(self._models.values()))

    @property
    def has_several(self) -> bool:
        """Whether a request has to name its model to reach all of them."""
        return len(self._models) > 1

    @property
    def versions(self) -> tuple[AdmissionController, ...]:
        """All versions that are loaded."""
        return tuple(version for model in self for version in model.versions)

    @property
    def ready(self) -> bool:
        """Whether every model answers requests."""
        return all(model.serving.ready for model in self._models.values())

    def get(self, name: str) -> Model | None:
        """Return a model by its name, None for another."""
        return self._models.get(name)

    def version(self, name: str, version: str) -> AdmissionController | None:
        """Return a version that is loaded, None for another."""
        model = self.get(name)
        return model.version(version) if model else None

    def put(self, model: Model) -> None:
        """Add a model, unless it is there."""
        self._models[model.name] = model

    def remove(self, name: str) -> None:
        """Remove a model that is not the default."""
        del self._models[name]

    def find(self, name: str, version: str | None, headers: Mapping[str, str]) -> AdmissionController:
        """Return the version that answers a request; NotFound for a model or version that is not loaded."""
        model = self.get(name)
        found = None
        if model is not None:
            found = model.version(version) if version else model.choose(headers)
        if found is None:
            requested = f"{name[:80]}{f', version {version[:40]}' if version else ''}"
            known = ", ".join(f"{each.name} {each.serving.manifest.version}" for each in self)
            raise NotFound(f"there is no model {requested}", f"served here: {known}", code="no_model")
        return found


def place_of(name: str, key: str) -> float:
    """Return a number from 0 to below 1 for a key; the same keys have unrelated numbers for another model."""
    digest = hashlib.blake2b(f"{name}\0{key}".encode("utf-8", "surrogateescape"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64
