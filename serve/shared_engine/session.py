"""One worker that is connected to the engine process: its shared memory and its requests."""

import asyncio
import functools
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Sequence

from tuneport.errors import RequestError
from tuneport.runtime.batch import EncodedInput, RowOutputs

from .. import logs
from .channel import Channel
from .memory import Segment
from .messages import MAX_RECORDS, RECORD, Kind, encode_done, encode_error
from .row_format import RowFormat

Run = Callable[[Sequence[EncodedInput], float | None], Awaitable[list[RowOutputs]]]


class Session:
    """Runs a worker's requests, each of which is answered once; when the worker ends, its requests are dropped."""

    def __init__(
        self,
        connection: socket.socket,
        row_format: RowFormat,
        run: Run,
        *,
        on_close: Callable[["Session"], object],
    ) -> None:
        """Read from now on; `on_close` is called when the worker has ended."""
        self._format = row_format
        self._run = run
        self._on_close = on_close
        self._segments: dict[int, Segment] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._done: list[int] = []
        self._loop = asyncio.get_running_loop()
        self._channel = Channel(connection, self._on_packet, self.close)

    @property
    def is_busy(self) -> bool:
        """Whether the worker waits for outputs."""
        return bool(self._tasks or self._done)

    def greet(self, greeting: bytes, descriptor: int) -> None:
        """Send what the worker must know, with a copy of a descriptor."""
        self._channel.send(greeting, [os.dup(descriptor)])

    def close(self) -> None:
        """Drop the worker's requests and its memory."""
        self._channel.close()
        for task in list(self._tasks.values()):
            task.cancel()
        self._segments.clear()
        self._on_close(self)

    def _on_packet(self, packet: bytes, descriptors: list[int]) -> None:
        """Do what a packet says; a worker whose packet cannot be used is disconnected, and connects again."""
        try:
            self._follow(packet, descriptors)
        except Exception as error:  # such as too few file descriptors for another segment
            logs.log("failed", logging.ERROR, exc_info=error)
            self.close()
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def _follow(self, packet: bytes, descriptors: list[int]) -> None:
        for kind, rows, number, items, request, deadline in RECORD.iter_unpack(packet):
            if kind == Kind.SUBMIT:
                answer = self._answer(request, self._segments[number], items, rows, deadline)
                self._tasks[request] = task = self._loop.create_task(answer)
                task.add_done_callback(functools.partial(self._ended, request))
            elif kind == Kind.CANCEL:
                if running := self._tasks.get(request):
                    running.cancel()
            elif kind == Kind.ADD_SEGMENT:
                self._segments[number] = Segment(descriptors[0], items)
            elif kind == Kind.DROP_SEGMENT:
                del self._segments[number]

    async def _answer(self, request: int, segment: Segment, offset: int, count: int, deadline: float) -> None:
        """Run the rows of one request, and write their outputs behind them."""
        try:
            rows = self._format.read_rows(segment.ints, offset, count)
            outputs = await self._run(rows, None if deadline == float("inf") else deadline)
            self._format.write_outputs(segment.floats, offset, rows, outputs)
        except Exception as error:
            if not isinstance(error, RequestError | TimeoutError):
                logs.log("failed", logging.ERROR, exc_info=error)
            self._channel.send(encode_error(request, error))
        else:
            if not self._done:
                self._loop.call_soon(self._send_done)  # after the other requests of the same batch
            self._done.append(request)

    def _ended(self, request: int, task: "asyncio.Task[None]") -> None:
        """Forget a request, and tell the worker of one that was cancelled, perhaps before its task began."""
        self._tasks.pop(request, None)
        if task.cancelled():
            self._channel.send(encode_error(request, asyncio.CancelledError()))

    def _send_done(self) -> None:
        done, self._done = self._done, []
        for first in range(0, len(done), MAX_RECORDS):
            self._channel.send(encode_done(done[first : first + MAX_RECORDS]))
