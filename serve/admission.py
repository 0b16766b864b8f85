"""Admission control of one model for both protocols: capacity, sizes, deadlines, and the record of requests."""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from tuneport.errors import DeadlineExceeded, InputError, PayloadTooLarge, TuneportError
from tuneport.runtime.tasks.generation import TokenCallback
from tuneport.schema.artifact import Manifest
from tuneport.tasks import task_spec

from . import logs
from .devices import Placement
from .inference import Inference, InferenceResult, count_chars
from .metrics.model import Metrics
from .observing import Observing
from .other_variants import OtherVariants
from .response_cache import ResponseCache
from .settings import Settings
from .worker_state import WorkerState

Observe = Callable[[Sequence[Any], Any, list[InferenceResult]], None]
"""Called with the inputs, the parameters and the results of a request that was answered."""


class AdmissionController:
    """Stands in front of the inference of one version of a model."""

    def __init__(
        self,
        inference: Inference,
        settings: Settings,
        placement: Placement | None = None,
        worker: WorkerState | None = None,
    ) -> None:
        """Create the metrics; `placement` says where the engine runs, and `worker` what it shares with others."""
        self.inference = inference
        self.settings = settings
        self.manifest = inference.predictor.manifest
        self.model = inference.predictor.describe()
        """Name, version and variant, as responses give them."""
        self.worker = worker or WorkerState(settings, self.manifest.name)
        """What the models of this process share."""
        self.metrics = Metrics(self.model, self.worker.families, placement)
        if self.metrics.engine:
            self.metrics.engine.record(inference)
        self.other_variants = OtherVariants(inference, settings)
        self.active_requests = 0
        """Requests that began with this version and have not ended."""
        self.observe: Observe | None = None
        """Learns of every answer that was not streamed, where another version is compared with this one."""
        self._has_several_labels = self.manifest.processing.problem_type == "multi_label_classification"
        self._in_flight = 0
        self.metrics.requests.in_flight(0)  # a killed worker with this number may have left another figure
        self._cache = _open_cache(inference, settings)

    @property
    def ready(self) -> bool:
        """Whether requests are answered: false at the end of the service, and while there is no engine."""
        return self.worker.is_serving and self.inference.is_ready

    @contextmanager
    def acquire_slot(self, *, needs_engine: bool = False) -> Iterator[None]:
        """Count a request of the worker as active for as long as the block lasts; raises what `check_slot` raises."""
        self.check_slot(needs_engine=needs_engine)
        with self.worker.acquire_slot():
            yield

    def begin_request(self, *, needs_engine: bool) -> None:
        """Count a request that this version answers, which therefore stays open until `end_request`."""
        self.active_requests += 1
        if needs_engine:
            self._count_in_flight(1)

    def end_request(self, *, needs_engine: bool) -> None:
        """Count a request as ended."""
        self.active_requests -= 1
        if needs_engine:
            self._count_in_flight(-1)

    def _count_in_flight(self, change: int) -> None:
        self._in_flight += change
        with Observing("requests in flight"):
            self.metrics.requests.in_flight(self._in_flight)

    def check_slot(self, *, needs_engine: bool) -> None:
        """Raise Overloaded if the limit of active requests is reached.

        A request that `needs_engine` is also refused if too much work waits before it. Call it before the request is
        read, when a refusal costs least.
        """
        self.worker.check_slot()
        if needs_engine and not self._cache:  # which may hold the answer
            self.inference.check_capacity(asyncio.get_running_loop().time() + self.settings.request_timeout_s)

    async def infer(
        self,
        inputs: Sequence[Any],
        parameters: Any = None,
        *,
        timeout_s: float | None = None,
        callback: TokenCallback | None = None,
        allow_truncation: bool = True,
    ) -> list[InferenceResult]:
        """Answer the inputs of one request within the request timeout, or `timeout_s` if that is shorter.

        With a `callback` the timeout bounds only the wait in the queue: a stream may last for as long as its tokens
        keep coming. Raises DeadlineExceeded and what `Inference.run` raises.
        """
        self.check_size(inputs)
        limit_s = self.settings.request_timeout_s
        seconds = limit_s if timeout_s is None else min(limit_s, timeout_s)
        deadline = asyncio.get_running_loop().time() + seconds
        if self.metrics.engine:
            with Observing("rows that wait"):
                self.metrics.engine.waiting(self.inference.batcher.waiting)
        try:
            async with asyncio.timeout_at(None if callback else deadline):
                if self._cache and callback is None:
                    results = await self._infer_cached(self._cache, inputs, parameters, deadline, allow_truncation)
                else:
                    results = await self.inference.run(
                        inputs, parameters, deadline=deadline, callback=callback, allow_truncation=allow_truncation
                    )
        except TimeoutError:
            problem = f"no answer within {seconds:g} s"
            raise DeadlineExceeded(problem, "send fewer inputs, ask for fewer tokens, or add replicas") from None
        with Observing("predictions"):
            predictions = [result.prediction for result in results]
            self.metrics.answers.predictions(predictions, has_several_labels=self._has_several_labels)
        if self.observe and callback is None:
            with Observing("copies for the shadow"):
                self.observe(inputs, parameters, results)
        return results

    async def _infer_cached(
        self, cache: ResponseCache, inputs: Sequence[Any], parameters: Any, deadline: float, allow_truncation: bool
    ) -> list[InferenceResult]:
        """Take what is in the cache, and run the other inputs."""
        keys = await self.inference.executors.run_if_large(count_chars(inputs), cache.keys, inputs, parameters)
        found = [cache.get(key) for key in keys]
        if not allow_truncation:
            found = [None if result and result.truncated else result for result in found]
        missing = [i for i, result in enumerate(found) if result is None]
        with Observing("the cache"):
            self.metrics.answers.cached(len(inputs) - len(missing), len(missing))
        if missing:
            ran = await self.inference.run(
                [inputs[i] for i in missing], parameters, deadline=deadline, allow_truncation=allow_truncation
            )
            for i, result in zip(missing, ran, strict=True):
                found[i] = result
                cache.put(keys[i], result)
            with Observing("the cache"):
                self.metrics.answers.cache_size(cache.bytes)
        return [result for result in found if result is not None]

    def check_size(self, inputs: Sequence[Any]) -> None:
        """Refuse a list that is empty, or has too many inputs, or more text than may be tokenized for one request."""
        if not inputs:
            raise InputError('"inputs" is an empty list', "send at least one input", code="empty")
        count, limit = len(inputs), self.settings.max_client_batch_size
        if count > limit:
            problem = f"{count} inputs in one request, and the limit is {limit}"
            remedy = "send several requests, or raise TUNEPORT_MAX_CLIENT_BATCH_SIZE"
            raise PayloadTooLarge(problem, remedy, code="too_many_inputs")
        chars, limit = count_chars(inputs), self.settings.max_chars
        if chars > limit:
            problem = f"{chars} characters in one request, and the limit is {limit}"
            raise PayloadTooLarge(problem, "send several requests, or raise TUNEPORT_MAX_CHARS", code="too_many_chars")

    def record_request(
        self,
        protocol: str,
        operation: str,
        status: str,
        began: float,
        request_id: str,
        *,
        inputs: Any = None,
        traceparent: str | None = None,
    ) -> None:
        """Count, trace and log a request that has ended. `began` is a time of `time.perf_counter`.

        Raises nothing: a full disk, or a log that nobody reads, must not fail a request.
        """
        seconds = time.perf_counter() - began
        with Observing("requests"):
            self.metrics.requests.count(protocol, operation, status, seconds)
        if record_span := self.worker.record_span:
            model = {f"model.{key}": value for key, value in self.model.items()}
            attributes = {**model, "protocol": protocol, "status": status, "request_id": request_id}
            with Observing("traces"):
                record_span(operation, began, attributes, traceparent)
        if self.settings.log_requests:
            fields: dict[str, Any] = {"inputs": inputs} if self.settings.log_inputs and inputs is not None else {}
            logs.log_request(
                request_id=request_id,
                protocol=protocol,
                operation=operation,
                model=self.model["name"],
                version=self.model["version"],
                status=status,
                ms=round(seconds * 1000, 3),
                **fields,
            )


def check_cache(manifest: Manifest, settings: Settings) -> None:
    """Raise TuneportError where the cache of responses is set for a generative model."""
    if settings.response_cache_mib and task_spec(manifest.task).is_generative:
        problem = "TUNEPORT_RESPONSE_CACHE_MIB is set, and the answers of a generative model are not cached"
        raise TuneportError(problem, "unset it")


def _open_cache(inference: Inference, settings: Settings) -> ResponseCache | None:
    """Return the cache of responses, None without one; raises what `check_cache` raises."""
    if not settings.response_cache_mib:
        return None
    predictor = inference.predictor
    check_cache(predictor.manifest, settings)
    artifact = f"{predictor.manifest.name}:{predictor.manifest.version}:{predictor.variant.name}"
    return ResponseCache(int(settings.response_cache_mib * 2**20), artifact)
