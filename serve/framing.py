"""What every request goes through in both protocols: request id, API key, slot, error response, metrics and log."""

import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Literal, TypeVar

from tuneport.errors import Overloaded, RequestError

from . import logs
from .admission import AdmissionController
from .errors import ErrorResponse, to_error_response
from .metrics.requests import CANCELLED

Protocol = Literal["http", "grpc"]
Result = TypeVar("Result")
ENGINE_OPERATIONS = ("predict", "rerank", "infer", "openai")
"""Operations that wait for the engine, and are refused before they are read when it has too much work."""


class RequestFrame:
    """One request, from its headers to its record."""

    def __init__(
        self,
        admission: AdmissionController,
        protocol: Protocol,
        operation: str | None,
        headers: Mapping[str, str],
        *,
        is_named: bool = True,
    ) -> None:
        """Take the version that answers, and the headers (HTTP) or metadata (gRPC) by lower-case name.

        Without an `operation` the request needs no key and no slot, and leaves no record: health checks are answered
        whatever the load. Unless the model `is_named` by the path, the body may name another one; see `use`.
        """
        self.admission = admission
        """The version that answers; it stays open until the request has ended."""
        self.request_id = logs.request_id(headers.get("x-request-id"))
        self.status = CANCELLED[protocol]
        """For the record: HTTP's number or gRPC's name. The protocol sets it when it responds."""
        self.inputs: Any = None
        """For the record, where inputs are logged."""
        self.headers = headers
        self._protocol = protocol
        self._operation = operation
        self._is_for_engine = operation in ENGINE_OPERATIONS
        self._is_named = is_named

    def use(self, admission: AdmissionController) -> None:
        """Let the version answer that the body has named."""
        self.admission.end_request(needs_engine=self._is_for_engine)
        self.admission = admission
        self.admission.begin_request(needs_engine=self._is_for_engine)

    async def handle(
        self,
        work: Callable[[], Awaitable[Result]],
        respond: Callable[[ErrorResponse, Exception], Awaitable[Result]],
    ) -> Result:
        """Admit the request, await `work` and record the request; `respond` sends the response to an error."""
        began = time.perf_counter()
        try:
            if self._operation is None:
                return await work()
            self.admission.worker.check_key(self.headers.get("authorization"), self.headers.get("x-api-key"))
            with self.admission.acquire_slot(needs_engine=self._is_for_engine and self._is_named):
                self.admission.begin_request(needs_engine=self._is_for_engine)
                try:
                    return await work()
                finally:
                    self.admission.end_request(needs_engine=self._is_for_engine)
        except Exception as error:
            if isinstance(error, Overloaded):
                await self.admission.worker.hold_refusal()
            return await respond(self.to_response(error), error)
        finally:
            if self._operation is not None:
                self.admission.record_request(
                    self._protocol,
                    self._operation,
                    self.status,
                    began,
                    self.request_id,
                    inputs=self.inputs,
                    traceparent=self.headers.get("traceparent"),
                )

    def to_response(self, error: Exception) -> ErrorResponse:
        """Map an error to its response, and log one that is not the request's fault."""
        if not isinstance(error, RequestError):
            logs.log("failed", logging.ERROR, exc_info=error, request_id=self.request_id)
        return to_error_response(error)
