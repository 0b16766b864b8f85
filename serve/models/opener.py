"""Open a version of a model in this process, as the settings of the service and the version's own variants say."""

from collections.abc import Callable
from pathlib import Path

from tuneport.schema.artifact import Execution, Manifest
from tuneport.schema.loading import load_manifest

from ..admission import AdmissionController, check_cache
from ..devices import Placement, choose_variant, place_front_end, place_worker
from ..inference import Inference
from ..settings import Settings
from ..worker_state import WorkerState

OpenInference = Callable[[Path, Settings], Inference]


class Opener:
    """Opens the versions of one worker; those after the first one share its state."""

    def __init__(
        self,
        settings: Settings,
        number: int | None,
        open_inference: OpenInference | None,
        on_device_lost: Callable[[], object],
    ) -> None:
        """Take the settings of the service, the number of this worker, and what opens an engine in this process."""
        self._settings = settings
        self._number = number
        self._open_inference = open_inference or Inference.open
        self._on_device_lost = on_device_lost
        self._worker: WorkerState | None = None

    def __call__(self, folder: Path) -> AdmissionController:
        """Open an artifact and check its golden cases; raises a TuneportError if it may not serve."""
        manifest = load_manifest(folder)
        settings = settings_for(manifest, self._settings)
        check_cache(manifest, settings)
        inference, placement = self._open(folder, settings, manifest.variant(settings.variant).execution)
        inference.on_device_lost = self._on_device_lost
        try:
            admission = AdmissionController(inference, settings, placement, self._worker)
        except BaseException:  # its threads would keep the model in memory
            inference.close()
            inference.release()
            raise
        self._worker = admission.worker
        return admission

    def _open(self, folder: Path, settings: Settings, execution: Execution) -> tuple[Inference, Placement]:
        """Open an artifact, with an engine in this process unless workers share engines."""
        if settings.engine_count:
            from ..shared_engine.front_end import open_front_end

            number = self._number or 1
            return open_front_end(folder, settings, number), place_front_end(execution, number)
        placement = place_worker(execution, self._number)  # before a library of CUDA is loaded
        return self._open_inference(folder, settings), placement


def settings_for(manifest: Manifest, settings: Settings) -> Settings:
    """Return the settings for an artifact: with another variant for this host if it lacks the one that was chosen.

    Raises EngineError where none of its variants runs here.
    """
    if settings.variant in {variant.name for variant in manifest.variants}:
        return settings
    if settings.engine_count and settings.variant is None:  # the engine's process opens the default variant
        return settings
    variant = choose_variant(manifest, settings.model_copy(update={"variant": None})).variant.name
    if settings.variant is None and variant == manifest.default_variant:
        return settings
    # The limit was chosen for the variant that this artifact lacks.
    limit = settings.max_batch_tokens if settings.variant is None else None
    return settings.model_copy(update={"variant": variant, "max_batch_tokens": limit})
