"""What is decided once for all workers, before they start: their number, the variant, and the folders they share."""

import atexit
import contextlib
import os
import shutil
from pathlib import Path

from tuneport.errors import TuneportError
from tuneport.schema.loading import load_manifest

from . import lifecycle, logs, supervision
from .settings import METRICS_FOLDER, Settings


def with_workers(settings: Settings, artifact: Path) -> Settings:
    """Set the number of workers where it is not: one for each GPU if a variant for GPUs serves.

    What prevents that is an error once the service starts, where it is reported; a build needs no GPU.
    """
    if settings.workers is not None:
        return settings
    from .devices import choose_variant, default_workers

    with contextlib.suppress(TuneportError):
        manifest = load_manifest(artifact)
        if any(variant.execution.device != "cpu" for variant in manifest.variants):
            device = choose_variant(manifest, settings).variant.execution.device
            return settings.model_copy(update={"workers": default_workers(device)})
    return settings


def prepare_deployment(settings: Settings, artifact: Path) -> None:
    """Prepare this process, the supervisor, and the environment of its workers.

    The variant is chosen here where the artifact was timed on another host. Ends the process for an artifact that
    cannot serve.
    """
    logs.set_up_process()
    os.environ["TUNEPORT_WORKERS"] = str(settings.worker_count)
    folder = supervision.prepare_supervisor()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    if settings.worker_count > 1:
        os.environ[METRICS_FOLDER] = str(folder / "metrics")
        (folder / "metrics").mkdir()
    from .autotune import select_for_host, warn_of_other_processor
    from .origin import Origin

    try:
        Origin.check(artifact, settings)  # before autotuning runs what is in the artifact
        selection = select_for_host(artifact, settings) if settings.variant is None else None
        if selection and selection.variant:
            os.environ["TUNEPORT_VARIANT"] = selection.variant
        if selection and selection.max_batch_tokens:
            os.environ["TUNEPORT_MAX_BATCH_TOKENS"] = str(selection.max_batch_tokens)
        warn_of_other_processor(artifact, selection.variant if selection else settings.variant)
    except TuneportError as error:
        lifecycle.report_failed_start(error)
        raise SystemExit(f"error: {error}") from error
