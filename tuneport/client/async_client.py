"""The client for programs with an event loop: `Client` with `await`."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from typing import Any, Literal, Self

from tuneport.client import http_calls
from tuneport.client.calls import LOAD_TIMEOUT_S, Calls, delay_before_retry, explained, new_request_id
from tuneport.client.http_calls import HttpCall, TextEvents, read_response
from tuneport.client.http_transport import AsyncHttpTransport
from tuneport.client.results import ModelMetadata, ModelName, ModelVersion, Predictions
from tuneport.client.retries import Attempts
from tuneport.errors import RequestError, Unavailable


class AsyncClient(Calls):
    """As `Client`, for the tasks of one event loop."""

    async def __aenter__(self) -> Self:
        """Return the client."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the connections."""
        await self.close()

    async def predict(
        self, inputs: Sequence[Any], parameters: Mapping[str, Any] | None = None, *, timeout_s: float | None = None
    ) -> Predictions:
        """Return a prediction for each input, in order; raises RequestError.

        Inputs, parameters and predictions have the shapes of `POST /predict`, which the service's `/docs.json` has.
        """
        return await self._send(self._predict_call(inputs, parameters), self._attempts(timeout_s))

    async def explain(
        self, inputs: Sequence[Any], parameters: Mapping[str, Any] | None = None, *, timeout_s: float | None = None
    ) -> Predictions:
        """Return predictions with the effect of each word as `explanation`; InputError if the task has none."""
        return await self.predict(inputs, explained(parameters), timeout_s=timeout_s)

    def stream(
        self, value: Any, parameters: Mapping[str, Any] | None = None, *, timeout_s: float | None = None
    ) -> "AsyncTextStream":
        """Return the answer of a generative model piece by piece, as it is generated; HTTP only.

        `timeout_s` limits the wait for the first piece, retries included, and then for each further one.
        """
        call = self._stream_call(value, parameters)
        return AsyncTextStream(self._transport, call, self._attempts(timeout_s))

    async def metadata(self) -> ModelMetadata:
        """Return the model's versions and tensors, as the Open Inference Protocol describes them."""
        attempts = self._attempts(None)
        name = self._endpoint.model or (await self._send(http_calls.model_name(), attempts)).name
        return await self._send(self._metadata_call(name), attempts)

    async def list_models(self) -> tuple[ModelVersion, ...]:
        """List the versions that are loaded, and those that the service's model repository has; HTTP only."""
        found: tuple[ModelVersion, ...] = await self._send(self._models_call("list_models"), self._attempts(None))
        return found

    async def load_model(
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
        loaded: ModelName = await self._send(
            self._models_call("load_model", name, parameters), self._attempts(timeout_s, 0)
        )
        return loaded

    async def unload_model(self, name: str, version: str | None = None, *, timeout_s: float = LOAD_TIMEOUT_S) -> None:
        """Unload a shadow or a version that gets a share, or without a version the whole model; as `load_model`."""
        await self._send(self._models_call("unload_model", name, {"version": version}), self._attempts(timeout_s, 0))

    async def is_live(self, timeout_s: float = 5.0) -> bool:
        """Return whether the service's process answers; False if it cannot be reached."""
        return await self._check("is_live", timeout_s)

    async def is_ready(self, timeout_s: float = 5.0) -> bool:
        """Return whether the service accepts requests; False if it cannot be reached."""
        return await self._check("is_ready", timeout_s)

    async def close(self) -> None:
        """Close the connections; the client cannot be used any more."""
        await self._transport.close()

    async def _check(self, name: str, timeout_s: float) -> bool:
        try:
            return bool(await self._send(self._health_call(name), self._attempts(timeout_s, 0)))
        except RequestError:
            return False

    async def _send(self, call: Any, attempts: Attempts) -> Any:
        request_id = new_request_id()
        while True:
            try:
                return await self._transport.send(call, attempts.remaining_s(), request_id)
            except (RequestError, TimeoutError) as error:
                await asyncio.sleep(delay_before_retry(attempts, error, request_id))

    def _new_transport(self) -> Any:
        if not self._endpoint.is_grpc:
            return AsyncHttpTransport(self._endpoint)
        from tuneport.client.grpc_transport import AsyncGrpcTransport

        return AsyncGrpcTransport(self._endpoint)


class AsyncTextStream(AsyncIterator[str]):
    """The pieces of a generated text; `close` it, or use it in a `with` block, to end it early."""

    def __init__(self, transport: AsyncHttpTransport, call: HttpCall[None], attempts: Attempts) -> None:
        """Send the request when the first piece is asked for."""
        self._events = TextEvents(new_request_id())
        self._pieces = self._read(transport, call, attempts)

    async def __anext__(self) -> str:
        """Return the next piece; raises RequestError if the text ends with an error."""
        return await anext(self._pieces)

    async def __aenter__(self) -> Self:
        """Return the stream."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """End the stream."""
        await self.close()

    @property
    def prediction(self) -> Any:
        """What a call without stream would have returned; None before the end."""
        return self._events.prediction

    @property
    def model(self) -> ModelName | None:
        """The model that answered; None before the end."""
        return self._events.model

    async def close(self) -> None:
        """End the stream; the service stops generating."""
        await self._pieces.aclose()

    async def _read(
        self, transport: AsyncHttpTransport, call: HttpCall[None], attempts: Attempts
    ) -> AsyncGenerator[str]:
        request_id, has_begun = self._events.request_id, False
        while self._events.prediction is None:
            try:
                async with transport.open(call, attempts.remaining_s(), request_id) as response:
                    if response.status_code != 200:
                        read_response(call, response.status_code, response.headers, await response.aread(), request_id)
                    async for data in response.aiter_bytes():
                        for text in self._events.feed(data):
                            has_begun = True
                            yield text
                    if self._events.prediction is None:
                        raise Unavailable("the connection closed before the end of the text", "send it again")
            except (RequestError, TimeoutError) as error:
                await asyncio.sleep(delay_before_retry(attempts.ended() if has_begun else attempts, error, request_id))
