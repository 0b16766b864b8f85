"""What is decided once for all workers, before they start: their number, the variant, and the folders they share."""

import atexit
import contextlib
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from tuneport.errors import TuneportError
from tuneport.folders import sha256
from tuneport.schema.artifact import MANIFEST
from tuneport.schema.loading import check_distinct_names, load_manifest
from tuneport.tasks import task_spec

from . import lifecycle, logs, supervision
from .settings import METRICS_FOLDER, Settings
from .shared_engine.keeper import ENGINE, EngineKeeper


def with_workers(settings: Settings, artifact: Path) -> Settings:
    """Set the numbers of workers and of engines where they are not, if a variant for GPUs serves.

    There is one worker for each GPU that can run it; more workers share one engine for each of these. What prevents
    that is an error once the service starts, where it is reported; a build needs no GPU.
    """
    if settings.workers is not None and settings.engines is not None:
        return settings
    from .devices import choose_variant, default_engines, default_workers

    with contextlib.suppress(TuneportError):
        manifest = load_manifest(artifact)
        if any(variant.execution.device != "cpu" for variant in manifest.variants):
            execution = choose_variant(manifest, settings).variant.execution
            workers, engines = settings.workers or default_workers(execution), settings.engines
            if engines is None:
                engines = default_engines(execution, workers, manifest.task)
            return settings.model_copy(update={"workers": workers, "engines": engines})
    return settings


def prepare_deployment(
    settings: Settings, artifact: Path, engine_module: str = ENGINE, more: Sequence[Path] = ()
) -> EngineKeeper:
    """Prepare this process, the supervisor, and the environment of its workers; returns the engines that they share.

    The variant is chosen here where the artifact was timed on another host; `more` artifacts serve beside it. Ends the
    process for an artifact that cannot serve.
    """
    logs.set_up_process()
    os.environ |= {"TUNEPORT_WORKERS": str(settings.worker_count), "TUNEPORT_ENGINES": str(settings.engine_count)}
    folder = supervision.prepare_supervisor()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    if settings.process_count > 1:
        os.environ[METRICS_FOLDER] = str(folder / "metrics")
        (folder / "metrics").mkdir()
    from tuneport.runtime.availability import variant_of_environment

    from .autotune import select_for_host, warn_of_other_processor
    from .devices import warn_of_unfit_gpus
    from .models.shared_state import SharedState
    from .models.state import ServingState
    from .origin import Origin

    try:
        Origin.check(artifact, settings)  # before autotuning runs what is in the artifact
        manifest = load_manifest(artifact)
        variant_of_environment(manifest, settings.variant)
        selection = select_for_host(artifact, settings) if settings.variant is None else None
        if selection and selection.variant:
            os.environ["TUNEPORT_VARIANT"] = selection.variant
        if selection and selection.max_batch_tokens:
            os.environ["TUNEPORT_MAX_BATCH_TOKENS"] = str(selection.max_batch_tokens)
        variant = manifest.variant(selection.variant if selection else settings.variant)
        warn_of_other_processor(variant)
        warn_of_unfit_gpus(variant)
        if more:
            check_several(settings, [artifact, *more])
            SharedState(folder).write(ServingState.of(artifact, *more))
        if settings.engine_count:
            check_engines(settings, manifest.task)
        manifest_hash = sha256(artifact / MANIFEST)
        return EngineKeeper(artifact, settings.engine_count, folder, manifest_hash, engine_module)
    except TuneportError as error:
        raise lifecycle.failed_start_exit(error) from error


def check_several(settings: Settings, artifacts: Sequence[Path]) -> None:
    """Raise TuneportError for two artifacts of one name, and for several models with shared engines."""
    from .origin import Origin

    if settings.engine_count:
        problem = f"{len(artifacts)} artifacts would share the engines of TUNEPORT_ENGINES"
        raise TuneportError(problem, "unset it: each worker then has an engine for each model")
    for artifact in artifacts:
        Origin.check(artifact, settings)
    check_distinct_names(artifacts)


def check_engines(settings: Settings, task: str) -> None:
    """Raise TuneportError where workers cannot share engines, as for generative models and beside Linux."""
    if settings.engine_count > settings.worker_count:
        problem = f"TUNEPORT_ENGINES is {settings.engine_count}, and {settings.worker_count} worker(s) would share them"
        raise TuneportError(problem, "raise TUNEPORT_WORKERS, or set as many engines as workers or fewer")
    if task_spec(task).is_generative:
        problem = f"workers cannot share an engine for {task}, a task of generative models"
        raise TuneportError(problem, "unset TUNEPORT_ENGINES: each worker then has an engine of its own")
    if not hasattr(os, "memfd_create"):
        problem = "TUNEPORT_ENGINES is set, and this system has no memory that processes share without a name"
        raise TuneportError(problem, "unset it, or serve on Linux")
