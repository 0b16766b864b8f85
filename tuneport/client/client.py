"""The client for programs without an event loop."""

import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import Any, Literal, Self

from tuneport.client import http_calls
from tuneport.client.calls import LOAD_TIMEOUT_S, Calls, delay_before_retry, explained, new_request_id
from tuneport.client.http_calls import HttpCall, TextEvents, read_response
from tuneport.client.http_transport import HttpTransport
from tuneport.client.results import ModelMetadata, ModelName, ModelVersion, Predictions
from tuneport.client.retries import Attempts
from tuneport.errors import RequestError, Unavailable


class Client(Calls):
    """Calls a service over HTTP or gRPC, and tries again where that may help; threads may share it.

    A call is tried again if the service is overloaded, is stopping or cannot be reached, at the earliest after what
    its Retry-After asks for, and only while the call's time limit allows. Every other error is raised at once: see
    `tuneport.errors.RequestError` and its subclasses, with `problem`, `remedy`, `code` and `request_id`.
    """

    def __enter__(self) -> Self:
        """Return the client."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connections."""
        self.close()

    def predict(
        self, inputs: Sequence[Any], parameters: Mapping[str, Any] | None = None, *, timeout_s: float | None = None
    ) -> Predictions:
        """Return a prediction for each input, in order; raises RequestError.

        Inputs, parameters and predictions have the shapes of `POST /predict`, which the service's `/docs.json` has.
        """
        return self._send(self._predict_call(inputs, parameters), self._attempts(timeout_s))

    def explain(
        self, inputs: Sequence[Any], parameters: Mapping[str, Any] | None = None, *, timeout_s: float | None = None
    ) -> Predictions:
        """Return predictions with the effect of each word as `explanation`; InputError if the task has none."""
        return self.predict(inputs, explained(parameters), timeout_s=timeout_s)

    def stream(
        self, value: Any, parameters: Mapping[str, Any] | None = None, *, timeout_s: float | None = None
    ) -> "TextStream":
        """Return the answer of a generative model piece by piece, as it is generated; HTTP only.

        `timeout_s` limits the wait for the first piece, retries included, and then for each further one.
        """
        call = self._stream_call(value, parameters)
        return TextStream(self._transport, call, self._attempts(timeout_s))

    def metadata(self) -> ModelMetadata:
        """Return the model's versions and tensors, as the Open Inference Protocol describes them."""
        attempts = self._attempts(None)
        name = self._endpoint.model or self._send(http_calls.model_name(), attempts).name
        return self._send(self._metadata_call(name), attempts)

    def list_models(self) -> tuple[ModelVersion, ...]:
        """List the versions that are loaded, and those that the service's model repository has; HTTP only."""
        found: tuple[ModelVersion, ...] = self._send(self._models_call("list_models"), self._attempts(None))
        return found

    def load_model(
        self,
        name: str,
        version: str | None = None,
        *,
        traffic: Literal["switch", "shadow"] | float = "switch",
        shadow_share: float = 1.0,
        accept_changes: bool = False,
        timeout_s: float = LOAD_TIMEOUT_S,
    ) -> ModelName:
        """Load a version from the service's model repository, by default its newest one, and give it its traffic.

        Needs an administrator's key, and HTTP. The call returns when all workers have switched, and is not tried again.
        Raises ModelNotLoaded, and then nothing has changed, or DeadlineExceeded after `timeout_s`, and then the change
        goes on in the service.
        """
        parameters = http_calls.load_parameters(version, traffic, shadow_share, accept_changes=accept_changes)
        call = self._models_call("load_model", name, parameters)
        loaded: ModelName = self._send(call, self._attempts(timeout_s, 0))
        return loaded

    def unload_model(self, name: str, version: str | None = None, *, timeout_s: float = LOAD_TIMEOUT_S) -> None:
        """Unload a shadow or a version that gets a share, or without a version the whole model; as `load_model`."""
        self._send(self._models_call("unload_model", name, {"version": version}), self._attempts(timeout_s, 0))

    def is_live(self, timeout_s: float = 5.0) -> bool:
        """Return whether the service's process answers; False if it cannot be reached."""
        return self._check("is_live", timeout_s)

    def is_ready(self, timeout_s: float = 5.0) -> bool:
        """Return whether the service accepts requests; False if it cannot be reached."""
        return self._check("is_ready", timeout_s)

    def close(self) -> None:
        """Close the connections; the client cannot be used any more."""
        self._transport.close()

    def _check(self, name: str, timeout_s: float) -> bool:
        try:
            return bool(self._send(self._health_call(name), self._attempts(timeout_s, 0)))
        except RequestError:
            return False

    def _send(self, call: Any, attempts: Attempts) -> Any:
        request_id = new_request_id()
        while True:
            try:
                return self._transport.send(call, attempts.remaining_s(), request_id)
            except (RequestError, TimeoutError) as error:
                time.sleep(delay_before_retry(attempts, error, request_id))

    def _new_transport(self) -> Any:
        if not self._endpoint.is_grpc:
            return HttpTransport(self._endpoint)
        from tuneport.client.grpc_transport import GrpcTransport

        return GrpcTransport(self._endpoint)


class TextStream(Iterator[str]):
    """The pieces of a generated text; `close` it, or use it in a `with` block, to end it early."""

    def __init__(self, transport: HttpTransport, call: HttpCall[None], attempts: Attempts) -> None:
        """Send the request when the first piece is asked for."""
        self._events = TextEvents(new_request_id())
        self._pieces = self._read(transport, call, attempts)

    def __next__(self) -> str:
        """Return the next piece; raises RequestError if the text ends with an error."""
        return next(self._pieces)

    def __enter__(self) -> Self:
        """Return the stream."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the stream."""
        self.close()

    @property
    def prediction(self) -> Any:
        """What a call without stream would have returned; None before the end."""
        return self._events.prediction

    @property
    def model(self) -> ModelName | None:
        """The model that answered; None before the end."""
        return self._events.model

    def close(self) -> None:
        """End the stream; the service stops generating."""
        self._pieces.close()

    def _read(self, transport: HttpTransport, call: HttpCall[None], attempts: Attempts) -> Generator[str]:
        request_id, has_begun = self._events.request_id, False
        while self._events.prediction is None:
            try:
                with transport.open(call, attempts.remaining_s(), request_id) as response:
                    if response.status_code != 200:
                        read_response(call, response.status_code, response.headers, response.read(), request_id)
                    for data in response.iter_bytes():
                        for text in self._events.feed(data):
                            has_begun = True
                            yield text
                    if self._events.prediction is None:
                        raise Unavailable("the connection closed before the end of the text", "send it again")
            except (RequestError, TimeoutError) as error:
                time.sleep(delay_before_retry(attempts.ended() if has_begun else attempts, error, request_id))
