"""Send calls over HTTP, with httpx: in this thread, or in an event loop."""

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import httpx

from tuneport.client.endpoint import Endpoint
from tuneport.client.errors import unreachable
from tuneport.client.http_calls import HttpCall, Result, read_response
from tuneport.errors import RequestError

STALE_AFTER_S = 20.0
"""Connections that were not used for longer are opened anew: a service closes them, by default after 30 s."""


def _options(endpoint: Endpoint) -> dict[str, Any]:
    verify = ssl.create_default_context(cafile=endpoint.ca_file) if endpoint.scheme == "https" else True
    return {
        "base_url": endpoint.url,
        "verify": verify,
        "limits": httpx.Limits(max_connections=None, max_keepalive_connections=64, keepalive_expiry=STALE_AFTER_S),
    }


def _request(endpoint: Endpoint, call: HttpCall[Any], timeout_s: float, request_id: str) -> dict[str, Any]:
    headers = endpoint.headers(request_id)
    if call.body is not None:
        headers["content-type"] = "application/json"
    return {
        "method": call.method,
        "url": call.path,
        "content": call.body,
        "headers": headers,
        "timeout": timeout_s,
    }


def _to_error(endpoint: Endpoint, error: Exception) -> RequestError | TimeoutError:
    return TimeoutError() if isinstance(error, httpx.TimeoutException) else unreachable(endpoint.url, error)


class HttpTransport:
    """Sends calls in the calling thread; threads may share it."""

    def __init__(self, endpoint: Endpoint) -> None:
        """Connect when the first call is sent."""
        self._endpoint = endpoint
        self._client = httpx.Client(**_options(endpoint))

    def send(self, call: HttpCall[Result], timeout_s: float, request_id: str) -> Result:
        """Send a call and return its result; raises RequestError, or TimeoutError after `timeout_s`."""
        ends = time.monotonic() + timeout_s
        with self.open(call, timeout_s, request_id) as response:
            body = bytearray()
            for data in response.iter_bytes():
                body += data
                if time.monotonic() > ends:  # httpx limits each read, not their sum
                    raise TimeoutError
        return read_response(call, response.status_code, response.headers, bytes(body), request_id)

    @contextmanager
    def open(self, call: HttpCall[Any], timeout_s: float, request_id: str) -> Iterator[httpx.Response]:
        """Open a response whose body is read inside of the block; `timeout_s` limits each read."""
        try:
            with self._client.stream(**_request(self._endpoint, call, timeout_s, request_id)) as response:
                yield response
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise _to_error(self._endpoint, error) from error

    def close(self) -> None:
        """Close the connections."""
        self._client.close()


class AsyncHttpTransport:
    """Sends calls in an event loop."""

    def __init__(self, endpoint: Endpoint) -> None:
        """Connect when the first call is sent."""
        self._endpoint = endpoint
        self._client = httpx.AsyncClient(**_options(endpoint))

    async def send(self, call: HttpCall[Result], timeout_s: float, request_id: str) -> Result:
        """Send a call and return its result; raises RequestError, or TimeoutError after `timeout_s`."""
        async with asyncio.timeout(timeout_s), self.open(call, timeout_s, request_id) as response:
            body = await response.aread()
        return read_response(call, response.status_code, response.headers, body, request_id)

    @asynccontextmanager
    async def open(self, call: HttpCall[Any], timeout_s: float, request_id: str) -> AsyncIterator[httpx.Response]:
        """Open a response whose body is read inside of the block; `timeout_s` limits each read."""
        try:
            async with self._client.stream(**_request(self._endpoint, call, timeout_s, request_id)) as response:
                yield response
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise _to_error(self._endpoint, error) from error

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()
