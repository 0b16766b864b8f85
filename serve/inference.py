"""Answer one request among others: parse, encode, check the size, batch, run, decode."""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

from pydantic import BaseModel

from tuneport.errors import DeviceLost, EngineError, MalformedRequest, PayloadTooLarge
from tuneport.runtime.backends.device_guard import GUARD
from tuneport.runtime.batch import EncodedInput, RowOutputs, group_by_input
from tuneport.runtime.predictor import Predictor
from tuneport.runtime.tasks.generation import TokenCallback, with_callback
from tuneport.schema.artifact import Variant
from tuneport.schema.loading import load_manifest

from .batcher import Batcher, BatchReport, MakeBatcher, RowBatcher
from .origin import Origin
from .request_executors import RequestExecutors
from .settings import Settings

SHORT_TEXT_CHARS = 1000
"""Tokenizing a text shorter than this takes less time than a change of threads."""
QUICK_INPUTS, QUICK_CHARS = 128, 2**13
"""So many texts of so many characters together are parsed in less time than a change of threads takes."""
MAX_DECODE_VALUES = 2**13
"""Tokens and scores up to which the event loop may decode a request's outputs."""


class InferenceResult(NamedTuple):
    """The prediction for one input, and the tokens that it took."""

    prediction: Any
    """In the shape of `POST /predict`."""
    prompt_tokens: int
    """Tokens of all the rows that ran for the input."""
    new_tokens: int
    """Generated tokens; 0 for encoders."""
    truncated: bool
    """Whether the input was longer than the model's maximum and lost tokens."""


class Inference:
    """A predictor behind a batcher that concurrent requests share."""

    def __init__(self, predictor: Predictor, settings: Settings, make_batcher: MakeBatcher = Batcher) -> None:
        """Start the threads of the batcher that `make_batcher` returns."""
        self.predictor = predictor
        self.on_batch: Callable[[BatchReport], object] = lambda _: None
        """Called in the event loop with the report of every batch."""
        self.on_device_lost: Callable[[], object] = lambda: None
        """Called once, in a thread of the engine, when its device failed; nothing runs on it afterwards."""
        self.origin = Origin()
        """Hash and signature of the manifest, as they were when the artifact was opened."""
        self.lost_because: str | None = None
        """Why the device is lost."""
        self._lost_lock = threading.Lock()
        self._settings = settings
        self.executors = RequestExecutors()
        self.batcher: RowBatcher = make_batcher(
            self._run_batch,
            streams=predictor.runner.streams,
            limits=predictor.runner.limits,
            max_queue_inputs=settings.max_queue_inputs,
            max_queue_s=None if settings.max_queue_ms is None else settings.max_queue_ms / 1000,
            report=lambda report: self.on_batch(report),
        )

    @classmethod
    def open(
        cls, artifact: Path, settings: Settings, *, streams: int | None = None, make_batcher: MakeBatcher = Batcher
    ) -> Self:
        """Open an artifact as the settings say.

        Raises what `Predictor` raises, SignatureError for a signature that is wrong, or that is absent and required,
        and EngineError for a wrong device.
        """
        origin = Origin.check(artifact, settings)  # before anything of the artifact is opened
        _check_device(load_manifest(artifact).variant(settings.variant), settings)
        predictor = Predictor(
            artifact,
            settings.variant,
            threads=settings.worker_threads(),
            streams=streams,
            max_batch_tokens=settings.max_batch_tokens,
            device_options=settings.device_options(),
        )
        inference = cls(predictor, settings, make_batcher)
        inference.origin = origin
        return inference

    @property
    def is_ready(self) -> bool:
        """Whether there is an engine that can run."""
        return True

    def start(self, on_ready: Callable[[bool], object]) -> None:
        """Begin to serve in the event loop that runs; `on_ready` is called there when `is_ready` changes."""

    async def run(
        self,
        inputs: Sequence[Any],
        parameters: Any = None,
        *,
        deadline: float | None = None,
        callback: TokenCallback | None = None,
        allow_truncation: bool = True,
    ) -> list[InferenceResult]:
        """Answer the inputs of one request, in order.

        `deadline` is a time of the event loop's clock, after which rows that have not started are dropped. `callback`
        receives the tokens of a generative model as they are generated. Raises InputError, PayloadTooLarge,
        MalformedRequest for a truncated input unless `allow_truncation`, and what `Batcher.submit` raises.
        """
        checked = self.predictor.parse_parameters(parameters)
        size = count_chars(inputs, with_audio=True)
        parse = self.predictor.parse_inputs
        is_quick = self.predictor.family.tokenizes_concurrently and size <= QUICK_CHARS and len(inputs) <= QUICK_INPUTS
        parsed_inputs = parse(inputs) if is_quick else await self.executors.run(size, parse, inputs)
        windows = await self._encode(inputs, size, parsed_inputs, checked, deadline)
        self._check_tokens(windows, allow_truncation=allow_truncation)
        if callback:
            windows = [with_callback(rows, callback) for rows in windows]
        rows = [row for each in windows for row in each]
        outputs = group_by_input(await self.batcher.submit(rows, deadline), windows)
        predictions = await self._decode(parsed_inputs, windows, outputs, checked)
        return [_result(*part) for part in zip(predictions, windows, outputs, strict=True)]

    def check_capacity(self, deadline: float | None = None) -> None:
        """Raise DeviceLost where nothing can run any more, and what `Batcher.check_capacity` raises."""
        self._check_device_lost()
        self.batcher.check_capacity(deadline=deadline)

    def close(self) -> None:
        """Refuse the rows that wait and stop the threads."""
        self.batcher.close()
        self.executors.close()

    def release(self) -> None:
        """Let go of the model after `close`, so that its memory is free as soon as nothing else holds it.

        Waits while another model captures CUDA graphs, which freeing memory on the device would break.
        """
        self.on_batch = lambda _: None  # the event loop may yet have the report of the last batch
        with GUARD.running():
            del self.predictor, self.batcher

    def _run_batch(self, rows: Sequence[EncodedInput]) -> list[RowOutputs]:
        """Run a batch in a thread of the engine; once the device is lost, raise DeviceLost without touching it."""
        self._check_device_lost()
        try:
            outputs = self.predictor.runner.run_batch(rows)
        except DeviceLost as error:
            with self._lost_lock:
                is_first = self.lost_because is None
                self.lost_because = self.lost_because or error.reason
            if is_first:
                self.on_device_lost()
            raise
        self._check_device_lost()  # in another stream while this batch ran: its outputs may be damaged, too
        return outputs

    def _check_device_lost(self) -> None:
        if self.lost_because is not None:
            raise DeviceLost(self.lost_because)

    async def _encode(
        self,
        inputs: Sequence[Any],
        size: int,
        parsed_inputs: Sequence[Any],
        parameters: BaseModel,
        deadline: float | None,
    ) -> list[list[EncodedInput]]:
        """Encode inputs in a thread, or right here where that is faster."""
        encode = self.predictor.task.encode_request
        if self.predictor.family.tokenizes_concurrently and _is_short(inputs):
            return encode(parsed_inputs, parameters)
        self.check_capacity(deadline)  # before more work than is needed to ask when the rows are submitted
        return await self.executors.run(size, encode, parsed_inputs, parameters)

    async def _decode(
        self,
        parsed_inputs: Sequence[Any],
        windows: Sequence[Sequence[EncodedInput]],
        outputs: Sequence[Sequence[RowOutputs]],
        parameters: BaseModel,
    ) -> list[Any]:
        """Decode in a thread, or right here where that is faster."""
        decode = self.predictor.task.decode_request
        rows = [len(row) for each in windows for row in each]
        size = sum(rows) + len(rows) * len(self.predictor.manifest.labels)
        if size <= MAX_DECODE_VALUES:
            return decode(parsed_inputs, windows, outputs, parameters)
        return await self.executors.run(size, decode, parsed_inputs, windows, outputs, parameters)

    def _check_tokens(self, windows: Sequence[Sequence[EncodedInput]], *, allow_truncation: bool) -> None:
        """Refuse a request of too many tokens and, unless it is allowed, an input that was truncated."""
        if not allow_truncation and any(row.truncated for rows in windows for row in rows):
            problem = f"the prompt has over {self.predictor.manifest.processing.max_length} tokens"
            raise MalformedRequest(problem, "send a shorter one", code="context_length_exceeded")
        tokens, limit = sum(len(row) for rows in windows for row in rows), self._settings.max_tokens
        if tokens > limit:
            problem = f"{tokens} tokens in one request, and the limit is {limit}"
            remedy = "send several requests, or raise TUNEPORT_MAX_TOKENS"
            raise PayloadTooLarge(problem, remedy, code="too_many_tokens")


def _check_device(variant: Variant, settings: Settings) -> None:
    """Refuse to start where TUNEPORT_DEVICE is not the variant's device."""
    device = variant.execution.device
    if settings.device and settings.device != device:
        raise EngineError(
            f"variant {variant.name} is for {device}, and {settings.device} was asked for",
            "choose a variant of that device or unset TUNEPORT_DEVICE",
        )


def _is_short(inputs: Sequence[Any]) -> bool:
    """Tell whether a request is a single short text, or an object with short texts."""
    if len(inputs) != 1:
        return False
    fields = inputs[0].values() if isinstance(inputs[0], dict) else inputs
    return sum(len(field) if isinstance(field, str) else SHORT_TEXT_CHARS for field in fields) < SHORT_TEXT_CHARS


def _result(prediction: Any, rows: Sequence[EncodedInput], outputs: Sequence[RowOutputs]) -> InferenceResult:
    new_tokens = sum([len(output["tokens"]) for output in outputs if "tokens" in output])
    return InferenceResult(prediction, sum(map(len, rows)), new_tokens, any([row.truncated for row in rows]))


def count_chars(value: Any, *, with_audio: bool = False) -> int:
    """Count the characters of all text in a JSON value, however nested, and `with_audio` the bytes of recordings."""
    chars, pending = 0, [value]
    while pending:
        part = pending.pop()
        if isinstance(part, str | bytes):
            chars += len(part)
        elif isinstance(part, dict):
            pending += [field for name, field in part.items() if name != "audio" or with_audio]
        elif isinstance(part, list | tuple):
            if set(map(type, part)) == {str}:  # the words of a long text
                chars += sum(map(len, part))
            else:
                pending += part
    return chars
