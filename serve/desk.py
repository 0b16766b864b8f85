"""What both doors share: who may enter, how many at a time, for how long, and what is written down about it."""

import asyncio
import hmac
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from serve import logs, tracing
from serve.errors import Refused
from serve.metrics import Metrics
from serve.predictor import Predictor
from serve.settings import Settings

ANSWERING = ("predict", "infer", "openai")
"""Operations that need the engine."""


class Desk:
    """One in each worker, in front of its predictor."""

    def __init__(self, predictor: Predictor, settings: Settings) -> None:
        """Read the keys and begin to count."""
        self.predictor = predictor
        self.settings = settings
        self.metrics = Metrics(predictor.describe(), workers=settings.workers)
        predictor.on_batch = self.metrics.batch
        self._record = tracing.recorder(predictor.describe())
        self.ready = True
        """Goes false when the service is told to stop."""
        self._keys = settings.keys()
        self._inside = 0

    def check_key(self, authorization: str | None, api_key: str | None) -> None:
        """Refuse a request without a key, where keys are set; takes the same time for any wrong one."""
        if not self._keys:
            return
        given = api_key or ""
        if authorization and authorization[:7].lower() == "bearer ":
            given = authorization[7:].strip()
        brought = given.encode("utf-8", "surrogateescape")
        if not any([hmac.compare_digest(brought, key) for key in self._keys]):
            problem = "the API key is wrong" if given else "there is no API key"
            raise Refused(401, "unauthenticated", problem, "send Authorization: Bearer KEY, or x-api-key: KEY")

    @contextmanager
    def seat(self, operation: str) -> Iterator[None]:
        """Take one of the places for requests, for as long as the block lasts.

        Where the engine has too much to do already, a request for answers is refused before it costs anything: there
        are many to refuse when there are too many.
        """
        if self._inside >= self.settings.max_requests:
            problem = f"{self._inside} requests are under way and at most {self.settings.max_requests} may"
            raise Refused(429, "overloaded", problem, "try again after a second, or add replicas")
        if operation in ANSWERING:
            self.predictor.batcher.check_room()
        self._inside += 1
        try:
            yield
        finally:
            self._inside -= 1

    async def answer(self, inputs: Sequence[Any], parameters: Any, timeout_s: float | None = None) -> list[Any]:
        """Answer the inputs of a request within its time; raises what `refusal_of` understands."""
        self.check_size(inputs)
        limit = self.settings.request_timeout_s
        seconds = min(limit, timeout_s) if timeout_s is not None else limit
        deadline = asyncio.get_running_loop().time() + seconds
        try:
            async with asyncio.timeout_at(deadline):
                predictions = await self.predictor.answer(inputs, parameters, deadline)
        except TimeoutError:
            raise Refused(
                503, "timeout", f"no answer within {seconds:g} s", "send fewer inputs or add replicas"
            ) from None
        self.metrics.predictions(predictions)
        return predictions

    def check_size(self, inputs: Sequence[Any]) -> None:
        """Refuse a list that is empty, or too long, or of too much text: it would be tokenized for many seconds."""
        count, most = len(inputs), self.settings.max_inputs
        if not count:
            raise Refused(422, "empty", '"inputs" is an empty list', "send at least one input")
        if count > most:
            problem = f"{count} inputs in one request, and the limit is {most}"
            raise Refused(413, "too_many_inputs", problem, "send several requests, or raise TUNEPORT_MAX_INPUTS")
        chars, most = count_chars(inputs), self.settings.max_chars
        if chars > most:
            problem = f"{chars} characters in one request, and the limit is {most}"
            raise Refused(413, "too_many_chars", problem, "send several requests, or raise TUNEPORT_MAX_CHARS")

    def note(
        self,
        door: str,
        operation: str,
        status: str,
        began: float,
        request_id: str,
        *,
        inputs: Any = None,
        traceparent: str | None = None,
    ) -> None:
        """Count, trace and log a request that has ended. `began` is of `time.perf_counter`."""
        seconds = time.perf_counter() - began
        self.metrics.request(door, operation, status, seconds)
        if self._record:
            attributes = {"door": door, "status": status, "request_id": request_id}
            self._record(operation, began, attributes, traceparent)
        if self.settings.log_requests:
            fields: dict[str, Any] = {"inputs": inputs} if self.settings.log_inputs and inputs is not None else {}
            logs.log_request(
                request_id=request_id,
                door=door,
                operation=operation,
                status=status,
                ms=round(seconds * 1000, 3),
                **fields,
            )


def count_chars(value: Any) -> int:
    """Count the characters of all text in a JSON value, however deep; a recording in base64 is none."""
    chars, left = 0, [value]
    while left:
        each = left.pop()
        if isinstance(each, str):
            chars += len(each)
        elif isinstance(each, dict):
            left += [field for name, field in each.items() if name != "audio"]
        elif isinstance(each, list | tuple):
            left += each
    return chars
