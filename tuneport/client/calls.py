"""What both clients have in common: their settings, and the calls over either protocol as values."""

import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tuneport.client import http_calls
from tuneport.client.endpoint import parse_endpoint
from tuneport.client.errors import out_of_time
from tuneport.client.http_calls import HttpCall
from tuneport.client.retries import Attempts, check_limits
from tuneport.errors import InputError, RequestError

DEFAULT_URL = "http://127.0.0.1:3000"
DEFAULT_TIMEOUT_S = 30.0
DEFAULT_MAX_RETRIES = 4
LOAD_TIMEOUT_S = 330.0
"""For changes of models: more than a service takes by default before it gives up (TUNEPORT_LOAD_TIMEOUT_S)."""


class Calls:
    """The settings of a client, and its calls; a call is an `HttpCall` or a `GrpcCall`, as the address says."""

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        model: str | None = None,
        api_key: str | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        max_retries: int = DEFAULT_MAX_RETRIES,
        ca_file: str | Path | None = None,
    ) -> None:
        """Check the settings; nothing is connected yet.

        `url` is `http://`, `https://`, `grpc://` or `grpcs://HOST:PORT`. `model` is the artifact's name: the last two
        need it, and over HTTP the first of several models answers without it. `timeout_s` limits a call with all its
        retries, of which there are at most `max_retries`. `ca_file` holds the certificates that sign the service's, by
        default the system's. Raises TuneportError for a wrong address.
        """
        check_limits(timeout_s, max_retries)
        self._endpoint = parse_endpoint(url, api_key, Path(ca_file) if ca_file else None, model)
        self._timeout_s, self._max_retries = timeout_s, max_retries
        self._transport = self._new_transport()

    def _new_transport(self) -> Any:
        """Return what sends the calls of the address's protocol."""
        raise NotImplementedError

    def _attempts(self, timeout_s: float | None, max_retries: int | None = None) -> Attempts:
        """Begin a call, by default within the client's limits."""
        seconds = self._timeout_s if timeout_s is None else timeout_s
        retries = self._max_retries if max_retries is None else max_retries
        check_limits(seconds, retries)
        return Attempts(seconds, retries)

    def _predict_call(self, inputs: Sequence[Any], parameters: Mapping[str, Any] | None) -> Any:
        if isinstance(inputs, str | bytes | Mapping):
            raise InputError(f"inputs is of type {type(inputs).__name__}", "give a list of inputs")
        if not self._endpoint.is_grpc:
            return http_calls.predict(inputs, parameters or {}, self._endpoint.model)
        from tuneport.client import grpc_calls

        assert self._endpoint.model
        return grpc_calls.predict(self._endpoint.model, inputs, parameters or {})

    def _stream_call(self, value: Any, parameters: Mapping[str, Any] | None) -> HttpCall[None]:
        if self._endpoint.is_grpc:
            raise InputError("the Open Inference Protocol has no streams over gRPC", "use an http:// address")
        return http_calls.stream(value, parameters or {}, self._endpoint.model)

    def _health_call(self, name: str) -> Any:
        """Return the call `is_live` or `is_ready`."""
        if not self._endpoint.is_grpc:
            return getattr(http_calls, name)()
        from tuneport.client import grpc_calls

        return getattr(grpc_calls, name)()

    def _models_call(self, name: str, *arguments: Any) -> HttpCall[Any]:
        """Return the call `list_models`, `load_model` or `unload_model`."""
        if self._endpoint.is_grpc:
            raise InputError("models are listed and loaded over HTTP by this client", "use an http:// address")
        call: HttpCall[Any] = getattr(http_calls, name)(*arguments)
        return call

    def _metadata_call(self, model: str) -> Any:
        if not self._endpoint.is_grpc:
            return http_calls.metadata(model)
        from tuneport.client import grpc_calls

        return grpc_calls.metadata(model)


def new_request_id() -> str:
    """Return an id for a call; its retries share it."""
    return uuid.uuid4().hex


def delay_before_retry(attempts: Attempts, error: RequestError | TimeoutError, request_id: str) -> float:
    """Return the seconds to wait before the next attempt; raises the RequestError that ends the call."""
    final = out_of_time(attempts.timeout_s) if isinstance(error, TimeoutError) else error
    final.request_id = final.request_id or request_id
    return attempts.delay_s(final)


def explained(parameters: Mapping[str, Any] | None) -> dict[str, Any]:
    """Add the parameter that asks for an explanation."""
    return {**(parameters or {}), "explain": True}
