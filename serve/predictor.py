"""An artifact made ready to answer: check the files, open the engine, prove the golden cases."""

import asyncio
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

from export.manifest import Manifest, check_files, load_golden, load_manifest
from serve.batcher import Batcher, BatchReport, Result
from serve.errors import Refused
from serve.explain import encode
from serve.model import check_golden, group, open_model
from serve.settings import Settings
from serve.tasks.inputs import InputError, check_number
from serve.tokenizer import Row

if TYPE_CHECKING:
    from serve.bento_batcher import BentoBatcher

SMALL_CHARS = 1000


class Predictor:
    """Answers requests on one variant of an artifact."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        """Load and prove it; raises a TuneportError unless files, engine and golden cases are all right."""
        self.manifest: Manifest = load_manifest(folder)
        self.variant = self.manifest.variant(settings.variant)
        if settings.batcher == "bentoml":  # it runs one batch at a time
            self.variant = self.variant.model_copy(update={"streams": 1})
        if settings.device and settings.device != self.variant.device:
            raise InputError(
                f"variant {self.variant.name} is for {self.variant.device}, and {settings.device} was asked for",
                "choose a variant of that device or unset TUNEPORT_DEVICE",
            )
        check_files(folder, self.manifest, self.variant.name)
        self.model = open_model(folder, self.manifest, self.variant, threads=settings.threads_each())
        if settings.max_batch_tokens:
            self.model.budget = replace(self.model.budget, tokens=settings.max_batch_tokens)
        self._task = self.model.task
        check_golden(self.model, load_golden(folder), self.variant)  # warms the engine up, too
        self._settings = settings
        self.on_batch: Callable[[BatchReport], object] = lambda _: None
        """Told of every batch that ran."""
        self._batcher: Batcher | BentoBatcher | None = None
        self._tokenizing = ThreadPoolExecutor(1, thread_name_prefix="tokenizer")

    def describe(self) -> dict[str, str]:
        """Name the model in an answer."""
        return {"name": self.manifest.name, "version": self.manifest.version, "variant": self.variant.name}

    def read_parameters(self, parameters: Any) -> BaseModel:
        """Check a request's `parameters`; an InputError names each that is wrong."""
        if isinstance(parameters, dict):
            check_number(len(parameters), "parameters")
        try:
            return self._task.parameters.model_validate({} if parameters is None else parameters)
        except ValidationError as error:
            wrong = ", ".join(f"{'.'.join(map(str, e['loc'])) or 'parameters'}: {e['msg']}" for e in error.errors())
            known = ", ".join(self._task.parameters.model_fields) or "none"
            raise InputError(f"wrong parameters: {wrong}", f"known: {known}") from error

    def read_inputs(self, values: Iterable[Any], first: int = 0) -> list[Any]:
        """Check the inputs of a request, counted from `first`; an InputError names the first that is wrong."""
        given = []
        for index, value in enumerate(values, first):
            try:
                given.append(self._task.read(value))
            except InputError as error:
                raise InputError(f"inputs[{index}]: {error.problem}", error.remedy) from error
        return given

    def predict(self, values: Sequence[Any], parameters: Any = None, *, first: int = 0) -> list[Any]:
        """Answer inputs here and now, in order; for the command line and tests. `first` is the number of the first."""
        checked = self.read_parameters(parameters)
        given = self.read_inputs(values, first)
        windows = encode(self._task, given, checked)
        results = self.model.run([row for rows in windows for row in rows])
        return self._decode(given, windows, results, checked)

    def predict_lines(self, values: Iterable[Any], window: int = 256) -> Iterator[Any]:
        """Answer a stream of inputs of any length in order, a window at a time."""
        source = iter(values)
        count = 0
        while chunk := list(itertools.islice(source, window)):
            yield from self.predict(chunk, first=count)
            count += len(chunk)

    async def answer(self, values: Sequence[Any], parameters: Any = None, deadline: float | None = None) -> list[Any]:
        """Answer one request among others: tokenize (off the event loop unless it is short), batch, run, decode.

        Raises Refused for a request of too many tokens, and what `Batcher.submit` raises.
        """
        checked = self.read_parameters(parameters)
        given = self.read_inputs(values)
        # A tokenizer of transformers' serves one call at a time, for which the event loop must not wait.
        if self.manifest.processing.generation is None and _is_small(values):
            windows = encode(self._task, given, checked)
        else:
            loop = asyncio.get_running_loop()
            windows = await loop.run_in_executor(self._tokenizing, encode, self._task, given, checked)
        rows = [row for rows in windows for row in rows]
        tokens = sum(map(len, rows))
        if tokens > self._settings.max_tokens:
            problem = f"{tokens} tokens in one request, and the limit is {self._settings.max_tokens}"
            raise Refused(413, "too_many_tokens", problem, "send several requests, or raise TUNEPORT_MAX_TOKENS")
        results = await self.batcher.submit(rows, deadline)
        return self._decode(given, windows, results, checked)

    @property
    def batcher(self) -> "Batcher | BentoBatcher":
        """The batcher of this process, made on first use."""
        if self._batcher is None:
            self._batcher = self._make_batcher()
        return self._batcher

    def _make_batcher(self) -> "Batcher | BentoBatcher":
        run, streams, budget = self.model.run_batch, self.model.streams, self.model.budget
        if self._settings.batcher == "bentoml":
            from serve.bento_batcher import BentoBatcher

            return BentoBatcher(run, budget=budget, report=lambda report: self.on_batch(report))
        return Batcher(
            run,
            streams=streams,
            budget=budget,
            max_waiting=self._settings.max_waiting_inputs,
            max_queue_s=self._max_queue_s(),
            report=lambda report: self.on_batch(report),
        )

    def _max_queue_s(self) -> float:
        """Take the setting; a model that writes is slow by nature and, unless it is set, has a request's whole time."""
        is_set = "max_queue_ms" in self._settings.model_fields_set
        writes = self.manifest.processing.generation is not None
        return self._settings.request_timeout_s if writes and not is_set else self._settings.max_queue_ms / 1000

    def close(self) -> None:
        """Stop the threads."""
        self._tokenizing.shutdown()
        if self._batcher:
            self._batcher.close()

    def _decode(
        self, given: Sequence[Any], windows: Sequence[Sequence[Row]], results: Sequence[Result], parameters: BaseModel
    ) -> list[Any]:
        parts = zip(given, windows, group(results, windows), strict=True)
        return [self._task.decode(*part, parameters) for part in parts]


def _is_small(values: Sequence[Any]) -> bool:
    """Tell whether tokenizing takes less than going to another thread and back."""
    if len(values) != 1:
        return False
    fields = values[0].values() if isinstance(values[0], dict) else values
    return sum(len(field) if isinstance(field, str) else SMALL_CHARS for field in fields) < SMALL_CHARS
