"""Send calls over gRPC, with grpcio: in this thread, or in an event loop."""

from typing import Any

import grpc

from tuneport.client.endpoint import Endpoint
from tuneport.client.errors import read_retry_after, to_exception, unreachable
from tuneport.client.grpc_calls import GrpcCall, Result
from tuneport.errors import ERROR_CODE_HEADER, RequestError

OPTIONS = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.enable_retries", 0),  # `retries.py` decides
)


def _credentials(endpoint: Endpoint) -> Any:
    return grpc.ssl_channel_credentials(endpoint.ca_file.read_bytes() if endpoint.ca_file else None)


def _to_error(endpoint: Endpoint, request_id: str, error: Any) -> RequestError | TimeoutError:
    """Return the exception for a failed call: the service's own error has a code in the trailing metadata."""
    status, details = error.code().name, error.details() or ""
    metadata = {key: value for key, value in error.trailing_metadata() or ()}
    code = metadata.get(ERROR_CODE_HEADER)
    if code is None and status == "UNAVAILABLE":
        return unreachable(endpoint.url, details)
    if code is None and status == "DEADLINE_EXCEEDED":
        return TimeoutError()
    problem, _, remedy = details.partition("; ")
    retry_after_s = read_retry_after(metadata.get("retry-after"))
    result = to_exception(status, code, problem, remedy or "see the service's log", retry_after_s=retry_after_s)
    result.request_id = metadata.get("x-request-id", request_id)
    return result


class GrpcTransport:
    """Sends calls in the calling thread; threads may share it."""

    def __init__(self, endpoint: Endpoint) -> None:
        """Connect when the first call is sent."""
        self._endpoint = endpoint
        if endpoint.scheme == "grpcs":
            self._channel = grpc.secure_channel(endpoint.target, _credentials(endpoint), OPTIONS)
        else:
            self._channel = grpc.insecure_channel(endpoint.target, OPTIONS)

    def send(self, call: GrpcCall[Result], timeout_s: float, request_id: str) -> Result:
        """Send a call and return its result; raises RequestError, or TimeoutError after `timeout_s`."""
        method = self._channel.unary_unary(
            call.path,
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=call.response_class.FromString,
        )
        metadata = tuple(self._endpoint.headers(request_id).items())
        try:
            return call.read(method(call.message, timeout=timeout_s, metadata=metadata), request_id)
        except grpc.RpcError as error:
            raise _to_error(self._endpoint, request_id, error) from error

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()


class AsyncGrpcTransport:
    """Sends calls in an event loop."""

    def __init__(self, endpoint: Endpoint) -> None:
        """Connect when the first call is sent: a channel belongs to the running event loop."""
        self._endpoint = endpoint
        self._channel: Any = None

    async def send(self, call: GrpcCall[Result], timeout_s: float, request_id: str) -> Result:
        """Send a call and return its result; raises RequestError, or TimeoutError after `timeout_s`."""
        method = self._open().unary_unary(
            call.path,
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=call.response_class.FromString,
        )
        metadata = tuple(self._endpoint.headers(request_id).items())
        try:
            return call.read(await method(call.message, timeout=timeout_s, metadata=metadata), request_id)
        except grpc.RpcError as error:
            raise _to_error(self._endpoint, request_id, error) from error

    def _open(self) -> Any:
        if self._channel is None and self._endpoint.scheme == "grpcs":
            self._channel = grpc.aio.secure_channel(self._endpoint.target, _credentials(self._endpoint), OPTIONS)
        elif self._channel is None:
            self._channel = grpc.aio.insecure_channel(self._endpoint.target, OPTIONS)
        return self._channel

    async def close(self) -> None:
        """Close the connection."""
        if self._channel is not None:
            await self._channel.close()
