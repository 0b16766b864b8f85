"""Open an artifact: its task with its tokenizer, and a runner for one of its variants.

What differs between encoders and generative models is a `ModelFamily`, chosen once here.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tuneport.errors import EngineError
from tuneport.runtime.backends.loading import open_backend
from tuneport.runtime.device_options import NO_OPTIONS, DeviceOptions
from tuneport.runtime.runner import EncoderRunner, ModelRunner
from tuneport.runtime.tasks.base import RuntimeTask
from tuneport.runtime.tokenizer import TextTokenizer
from tuneport.schema.artifact import PROCESSOR, TOKENIZER, Execution, Manifest, Processing, Variant
from tuneport.tasks import FamilyName, TaskSpec, task_spec


class OpenTokenizer(Protocol):
    """Open the tokenizer of a family's models."""

    def __call__(self, folder: Path, processing: Processing) -> Any:
        """Return a `TextTokenizer` or a `TextProcessor`."""


class BuildRunner(Protocol):
    """Open a variant's graphs for a task."""

    def __call__(
        self,
        folder: Path,
        spec: TaskSpec,
        task: RuntimeTask,
        execution: Execution,
        processing: Processing,
        threads: int | None,
        device_options: DeviceOptions,
    ) -> ModelRunner:
        """Return the runner; raises EngineError if its engine is not installed."""


@dataclass(frozen=True)
class ModelFamily:
    """What differs between encoders, which run once an input, and generative models, which run once a token."""

    name: FamilyName
    open_tokenizer: OpenTokenizer
    build_runner: BuildRunner
    tokenizes_concurrently: bool
    """Whether tokenizing a short text is fast and takes no lock, so that an event loop may do it."""
    is_autotuned: bool
    """Whether serving times the variants again on a host unlike the export's; generating text takes too long."""


def _encoder_tokenizer(folder: Path, processing: Processing) -> TextTokenizer:
    return TextTokenizer(folder / TOKENIZER, processing)


def _encoder_runner(
    folder: Path,
    spec: TaskSpec,
    task: RuntimeTask,
    execution: Execution,
    processing: Processing,
    threads: int | None,
    device_options: DeviceOptions,
) -> ModelRunner:
    backend = open_backend(folder, execution, threads=threads, device_options=device_options)
    return EncoderRunner(task, backend, execution, processing)


def _generative_tokenizer(folder: Path, processing: Processing) -> Any:
    with _needs_generate():
        from tuneport.runtime.processor import TextProcessor
    return TextProcessor(folder / PROCESSOR, processing)


def _generative_runner(
    folder: Path,
    spec: TaskSpec,
    task: RuntimeTask,
    execution: Execution,
    processing: Processing,
    threads: int | None,
    device_options: DeviceOptions,
) -> ModelRunner:
    with _needs_generate():
        from tuneport.runtime.backends.generative import open_generative
    return open_generative(folder, spec, task, execution, processing, threads, device_options)


FAMILIES = {
    family.name: family
    for family in (
        ModelFamily(
            "encoder",
            _encoder_tokenizer,
            _encoder_runner,
            tokenizes_concurrently=True,
            is_autotuned=True,
        ),
        ModelFamily(
            "generative",
            _generative_tokenizer,
            _generative_runner,
            tokenizes_concurrently=False,
            is_autotuned=False,
        ),
    )
}


def family_of(task: str) -> ModelFamily:
    """Return the family of a task's models."""
    return FAMILIES[task_spec(task).family]


def open_task(folder: Path, name: str, labels: tuple[str, ...], processing: Processing) -> RuntimeTask:
    """Open the tokenizer in `folder` and the task that uses it."""
    kind: type[RuntimeTask] = task_spec(name).task_class("runtime")
    return kind(labels, processing, family_of(name).open_tokenizer(folder, processing))


def build_runner(
    folder: Path,
    task_name: str,
    task: RuntimeTask,
    execution: Execution,
    processing: Processing,
    *,
    threads: int | None = None,
    device_options: DeviceOptions = NO_OPTIONS,
) -> ModelRunner:
    """Open a variant's graphs for a task; the export does so before there is a manifest."""
    build = family_of(task_name).build_runner
    return build(folder, task_spec(task_name), task, execution, processing, threads, device_options)


def open_runner(
    folder: Path,
    manifest: Manifest,
    variant: Variant,
    *,
    threads: int | None = None,
    device_options: DeviceOptions = NO_OPTIONS,
) -> ModelRunner:
    """Open a variant of an artifact, with its task."""
    task = open_task(folder, manifest.task, manifest.labels, manifest.processing)
    return build_runner(
        folder,
        manifest.task,
        task,
        variant.execution,
        manifest.processing,
        threads=threads,
        device_options=device_options,
    )


@contextlib.contextmanager
def _needs_generate() -> Iterator[None]:
    """Raise EngineError with the remedy where the packages for generative models are not installed."""
    try:
        yield
    except ImportError as error:
        raise EngineError(f"generative models need {error.name}", "install tuneport[generate]") from error
