"""A transport that sends what is written to it together: uvicorn writes the head and the body of a response apart."""

import asyncio
from typing import Any

MAX_KEPT_BYTES = 65_536
"""Of what is kept; a larger part is sent as it is, without a copy."""


class GatheringTransport:
    """Keeps what is written until the event loop has run all that is due, and sends it in one call.

    Each call to the system costs a short request a tenth of its processor time, or more where it wakes the client; the
    responses to a batch are sent one right after the other. All else goes to the transport itself.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        """Wrap a transport of the event loop."""
        self._transport = transport
        self._loop = loop
        self._kept: list[bytes] = []
        self._size = 0
        self.is_closing = transport.is_closing
        self.get_extra_info = transport.get_extra_info

    def write(self, data: bytes) -> None:
        """Send data soon, or now if it is much."""
        if len(data) > MAX_KEPT_BYTES:
            self._send()
            self._transport.write(data)
            return
        if not self._kept:
            self._loop.call_soon(self._send)
        self._kept.append(data)
        self._size += len(data)
        if self._size > MAX_KEPT_BYTES:
            self._send()

    def close(self) -> None:
        """Close the transport after what was written to it."""
        self._send()
        self._transport.close()

    def _send(self) -> None:
        kept, self._kept, self._size = self._kept, [], 0
        if kept and not self._transport.is_closing():
            self._transport.write(kept[0] if len(kept) == 1 else b"".join(kept))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)
