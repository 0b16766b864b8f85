"""Which variant serves on this host, how many workers do, and on which GPU each of them.

BentoML gives all workers of a service the same GPUs, and only where its own `resources` name some, which ours do not.
"""

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass

from tuneport.errors import EngineError
from tuneport.gpu import VISIBLE, listed_entries, nvidia_driver, unknown_entry, visible_gpus
from tuneport.host import Host
from tuneport.runtime.availability import fit_gpus, gpu_obstacle, obstacles, unfit_gpus
from tuneport.schema.artifact import Device, Execution, Manifest, Variant
from tuneport.tasks import task_spec

from . import logs
from .settings import Settings


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a worker runs."""

    worker: int = 1
    """From 1; a worker that dies leaves its number to the one that replaces it."""
    device: str = "cpu"
    """`cpu`, or the name of the worker's GPU for CUDA_VISIBLE_DEVICES, which is its UUID where NVML tells it."""
    gpus: tuple[str, ...] = ()
    """The names of all GPUs that the service's workers share."""
    has_engine: bool = True
    """Whether the engine is in this process."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The variant that serves unless one is named, and why it is not the manifest's."""

    variant: Variant
    because: str | None = None


def choose_variant(manifest: Manifest, settings: Settings, host: Host | None = None) -> Choice:
    """Return the variant that is named, else the manifest's default variant, or the best one that runs here.

    The default variant gives way where this host lacks what it needs, or where TUNEPORT_DEVICE is another device;
    `Manifest.best` says to which. Raises EngineError if no variant is left, and ArtifactError for an unknown name.
    """
    default = manifest.variant(settings.variant)
    is_wanted = settings.device in (None, default.execution.device)
    if settings.variant is not None or (len(manifest.variants) == 1 and is_wanted):
        return Choice(default)
    found = obstacles(manifest, host)
    if is_wanted and found[default.name] is None:
        return Choice(default)
    able = [
        variant.name
        for variant in manifest.variants
        if found[variant.name] is None and settings.device in (None, variant.execution.device)
    ]
    best = manifest.best(able)
    if best is None:
        raise _no_variant(manifest, settings.device, found)
    reason = f"{default.name} {found[default.name]}" if is_wanted else f"TUNEPORT_DEVICE is {settings.device}"
    return Choice(best, reason)


def _no_variant(manifest: Manifest, device: Device | None, found: Mapping[str, str | None]) -> EngineError:
    """Return the error for an artifact of which nothing can serve here."""
    asked = [variant.name for variant in manifest.variants if device in (None, variant.execution.device)]
    if not asked:
        devices = ", ".join(f"{variant.name} is for {variant.execution.device}" for variant in manifest.variants)
        return EngineError(f"no variant is for {device}: {devices}", "export for that device or unset TUNEPORT_DEVICE")
    reasons = ", and ".join(f"{name} {found[name]}" for name in asked)
    return EngineError(
        f"no variant of {manifest.name} runs here: {reasons}", "serve where one does, or export for this host"
    )


def warn_of_unfit_gpus(variant: Variant) -> None:
    """Log a warning if GPUs of this host stay without a worker because they cannot run the variant that serves."""
    if reasons := unfit_gpus(variant.execution, visible_gpus()):
        remedy = "serve a variant that they can run with TUNEPORT_VARIANT, or leave them out of CUDA_VISIBLE_DEVICES"
        logs.log("GPUs left out", logging.WARNING, variant=variant.name, because=reasons, remedy=remedy)


def default_workers(execution: Execution) -> int:
    """Return the number of workers of a variant where none is set: one for each GPU that can run it, else 1."""
    return 1 if execution.device == "cpu" else max(1, len(gpu_names(execution)))


def default_engines(execution: Execution, workers: int, task: str) -> int:
    """Return the number of engines that workers share where none is set: one for each GPU if they are more than these.

    Workers of generative models share none.
    """
    if execution.device == "cpu" or task_spec(task).is_generative:
        return 0
    gpus = max(1, len(gpu_names(execution)))
    return gpus if workers > gpus else 0


def gpu_names(execution: Execution) -> tuple[str, ...]:
    """Return names for CUDA_VISIBLE_DEVICES, one for each visible GPU or MIG instance that can run a variant.

    They are UUIDs, which mean the same whatever order CUDA counts in. Without NVML, as in containers without the
    driver's utilities, they are the entries of CUDA_VISIBLE_DEVICES. Raises EngineError for an entry that is no GPU,
    and if none of the GPUs can run the variant.
    """
    if (entry := unknown_entry()) is not None:
        visible = os.environ[VISIBLE]
        remedy = "correct or unset it; nvidia-smi -L lists numbers, UUIDs and MIG names"
        raise EngineError(f"{VISIBLE} is {visible!r}, and this host has no GPU {entry!r}", remedy)
    if nvidia_driver() is None:
        return listed_entries()
    gpus = visible_gpus()
    fit = fit_gpus(execution, gpus)
    if gpus and not fit:
        problem = f"the variant that would serve {gpu_obstacle(execution, gpus[0])}"
        raise EngineError(problem, "serve another variant, or on another GPU")
    return tuple(gpu.uuid for gpu in fit if gpu.uuid)


def place_front_end(execution: Execution, worker: int) -> Placement:
    """Return the place of a worker whose engine is in another process; it reports the state of all GPUs."""
    gpus = () if execution.device == "cpu" else gpu_names(execution)
    return Placement(worker, execution.device, gpus, has_engine=False)


def place_worker(execution: Execution, worker: int | None) -> Placement:
    """Choose a worker's GPU and hide the others from CUDA; call it before a library of CUDA is loaded.

    Workers share the GPUs that can run the variant, in turn if there are more of them. Where no GPU can be named,
    CUDA's own choice stands. `worker` counts from 1, and is None outside of BentoML's workers.
    """
    number, device = worker or 1, execution.device
    if device == "cpu":
        return Placement(number)
    names = gpu_names(execution)
    if not names and VISIBLE in os.environ:
        problem = f"{VISIBLE} is {os.environ[VISIBLE]!r}, which leaves no GPU, and the variant is for {device}"
        raise EngineError(problem, "name a GPU there or unset it, or serve a variant for another device")
    if not names:
        return Placement(number, device)
    name = names[(number - 1) % len(names)]
    os.environ[VISIBLE] = name
    return Placement(number, name, names)
