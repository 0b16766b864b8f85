"""Predict with an artifact: its files are verified, a variant is opened, and its golden cases are checked."""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from pydantic import BaseModel, ValidationError

from tuneport.errors import InputError
from tuneport.runtime.availability import variant_here
from tuneport.runtime.batch import group_by_input
from tuneport.runtime.device_options import NO_OPTIONS, DeviceOptions
from tuneport.runtime.golden import check_golden
from tuneport.runtime.loading import ModelFamily, family_of, open_runner
from tuneport.runtime.runner import ModelRunner
from tuneport.runtime.tasks.base import RuntimeTask
from tuneport.runtime.tasks.inputs import check_number
from tuneport.schema.artifact import Manifest, Variant
from tuneport.schema.loading import check_files, load_golden, load_manifest

CHUNK_INPUTS = 256
"""Inputs of a stream that are predicted together."""


class OpenRunner(Protocol):
    """Open a variant of an artifact."""

    def __call__(
        self,
        folder: Path,
        manifest: Manifest,
        variant: Variant,
        *,
        threads: int | None,
        device_options: DeviceOptions,
    ) -> ModelRunner:
        """Return its runner."""


class Predictor:
    """Predicts with one variant of an artifact."""

    def __init__(
        self,
        folder: Path,
        variant: str | None = None,
        *,
        threads: int | None = None,
        streams: int | None = None,
        max_batch_tokens: int | None = None,
        device_options: DeviceOptions = NO_OPTIONS,
        open_runner: OpenRunner = open_runner,
    ) -> None:
        """Open a variant, by default the artifact's default variant or what replaces it on this host, and check it.

        `threads` is the number of CPU threads for inference, by default the container's quota; `streams` and
        `max_batch_tokens` replace what was measured to be best, and `device_options` limit a GPU's memory.
        `open_runner` opens the variant, by default in this process. Raises ArtifactError for files that are missing or
        changed, EngineError for an engine that is not available, GateError for golden cases that differ from torch's.
        """
        self.folder = folder
        self.manifest: Manifest = load_manifest(folder)
        self.variant: Variant = variant_here(self.manifest, variant)
        self.family: ModelFamily = family_of(self.manifest.task)
        if streams:
            execution = self.variant.execution.model_copy(update={"streams": streams})
            self.variant = self.variant.model_copy(update={"execution": execution})
        check_files(folder, self.manifest, self.variant.name)
        self.runner: ModelRunner = open_runner(
            folder, self.manifest, self.variant, threads=threads, device_options=device_options
        )
        if max_batch_tokens:
            self.runner.limits = replace(self.runner.limits, tokens=max_batch_tokens)
        self.task: RuntimeTask = self.runner.task
        self._default_parameters: BaseModel | None = None
        """The parameters of a request that sends none, validated once: most requests send none."""
        self.golden_difference: float = check_golden(self.runner, load_golden(folder), self.variant)
        """From torch on the golden cases, here and now; computing it was also the engine's warm-up."""

    def describe(self) -> dict[str, str]:
        """Return the model's name, version and variant, as in responses."""
        return {"name": self.manifest.name, "version": self.manifest.version, "variant": self.variant.name}

    def parse_parameters(self, parameters: Any) -> BaseModel:
        """Check a request's `parameters`; an InputError names every invalid one."""
        if parameters is None or parameters == {}:
            if self._default_parameters is None:
                self._default_parameters = parse_parameters(self.task, {})
            return self._default_parameters
        return parse_parameters(self.task, parameters)

    def parse_inputs(self, values: Iterable[Any], first: int = 0) -> list[Any]:
        """Check inputs; an InputError names the first invalid one by its number, counted from `first`."""
        parsed_inputs = []
        for index, value in enumerate(values, first):
            try:
                parsed_inputs.append(self.task.parse_input(value))
            except InputError as error:
                raise InputError(f"inputs[{index}]: {error.problem}", error.remedy) from error
        return parsed_inputs

    def predict(self, values: Iterable[Any], parameters: Any = None, *, first: int = 0) -> list[Any]:
        """Predict several inputs, in order; `first` is the number of the first one in error messages.

        Inputs and predictions have the shapes of `POST /predict`. Raises InputError.
        """
        if isinstance(values, str | bytes | dict) or not isinstance(values, Iterable):
            raise InputError(f"the inputs are a {type(values).__name__}", "give a list of inputs")
        values = list(values)
        checked = self.parse_parameters(parameters)
        parsed_inputs = self.parse_inputs(values, first)
        windows = self.task.encode_request(parsed_inputs, checked)
        results = self.runner.run([row for rows in windows for row in rows])
        return self.task.decode_request(parsed_inputs, windows, group_by_input(results, windows), checked)

    def predict_stream(self, values: Iterable[Any], parameters: Any = None) -> Iterator[Any]:
        """Predict a stream of inputs of any length, in order, `CHUNK_INPUTS` inputs at a time."""
        source = iter(values)
        count = 0
        while inputs := list(itertools.islice(source, CHUNK_INPUTS)):
            yield from self.predict(inputs, parameters, first=count)
            count += len(inputs)


def parse_parameters(task: RuntimeTask, parameters: Any) -> BaseModel:
    """Check the `parameters` of a task; an InputError names every invalid one."""
    if isinstance(parameters, dict):
        check_number(len(parameters), "parameters")
    try:
        return task.parameters.model_validate(parameters)
    except ValidationError as error:
        wrong = ", ".join(f"{'.'.join(map(str, e['loc'])) or 'parameters'}: {e['msg']}" for e in error.errors())
        known = ", ".join(task.parameters.model_fields) or "none"
        raise InputError(f"wrong parameters: {wrong}", f"known: {known}") from error
