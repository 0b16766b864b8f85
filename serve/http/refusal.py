"""Refuse requests because of load as soon as their headers are there, without the layers of an application."""

import time
from functools import lru_cache

from starlette.responses import Response

from tuneport.errors import Overloaded, RequestError, Unauthenticated

from ..errors import to_error_response
from ..framing import ENGINE_OPERATIONS
from ..logs import request_id
from ..models.registry import ModelRegistry
from .paths import named_model, operation_of
from .responses import MAX_REFUSALS, error_response

NEEDED = frozenset({b"authorization", b"x-api-key", b"x-request-id", b"traceparent"})
"""The headers that a refusal looks at."""


class EarlyRefusal:
    """Responds to requests that need the engine while it has too much work.

    All others go to the application: also those without a valid key, those that are refused for another reason, and
    those whose refusal is to be held back. Raises nothing: the parser would take an exception for an invalid request.
    """

    def __init__(self, models: ModelRegistry) -> None:
        """Ask the version of a model that serves."""
        self._models = models

    def __call__(self, url: bytes, headers: list[tuple[bytes, bytes]]) -> bytes | None:
        """Return the complete response to a POST request, or None if it is not refused here."""
        path = url.partition(b"?")[0].decode("latin-1")
        operation = operation_of(path)
        if operation not in ENGINE_OPERATIONS or (operation == "openai" and self._models.has_several):
            return None
        name = named_model(path)
        model = self._models.get(name[0]) if name else self._models.default
        if model is None:
            return None
        admission = model.serving
        began = time.perf_counter()
        try:
            admission.check_slot(needs_engine=True)
            return None
        except Overloaded as overloaded:
            error = overloaded
        except RequestError:  # of a service that stops, or has lost its engine
            return None
        fields = {name: value.decode("latin-1") for name, value in headers if name in NEEDED}
        try:
            admission.worker.check_key(fields.get(b"authorization"), fields.get(b"x-api-key"))
        except Unauthenticated:
            return None
        if not admission.worker.refusal_pacer.send_now(time.monotonic()):
            return None
        response, number = error_response(to_error_response(error), path), request_id(fields.get(b"x-request-id"))
        admission.record_request(
            "http", operation, str(response.status_code), began, number, traceparent=fields.get(b"traceparent")
        )
        head, body = _message(response)
        return b"%s%s\r\n\r\n%s" % (head, number.encode(), body)


@lru_cache(MAX_REFUSALS)
def _message(response: Response) -> tuple[bytes, bytes]:
    """Return the bytes before a request id, and the body; the responses are as few as `MAX_REFUSALS`."""
    lines = [b"%s: %s\r\n" % header for header in response.raw_headers]
    return b"".join([b"HTTP/1.1 429 Too Many Requests\r\n", *lines, b"x-request-id: "]), bytes(response.body)
