"""A worker's connection to an engine process. What it shares with it ends with the connection."""

import asyncio
import itertools
import math
import socket
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import orjson

from tuneport.errors import EngineLost, Overloaded, ServiceStopping
from tuneport.runtime.batch import EncodedInput, RowOutputs

from .channel import Channel, receive, send
from .memory import Arena, Block
from .messages import MAX_RECORDS, RECORD, Answer, Kind, decode_done, decode_error
from .queue_state import QueuePage
from .row_format import Greeting

RETRY_S = 0.2
"""Pause before rows that run at the start are sent again, if the queue is full."""
ErrorClass = type[EngineLost] | type[ServiceStopping]
Outputs = Future[list[RowOutputs]] | asyncio.Future[list[RowOutputs]]


@dataclass(frozen=True, slots=True)
class _Pending:
    """A request that the engine has not answered."""

    block: Block
    rows: Sequence[EncodedInput]
    outputs: Outputs


class Connection:
    """Sends rows and receives their outputs: first in the calling thread, and from `attach` on in an event loop."""

    def __init__(self, connection: socket.socket, greeting: Greeting, page: QueuePage) -> None:
        """Use a connection on which the engine has sent its greeting."""
        self.greeting = greeting
        self.page = page
        self._socket = connection
        self._format = greeting.row_format
        self._arena = Arena(self._add_segment, self._drop_segment)
        self._numbers = itertools.count()
        self._pending: dict[int, _Pending] = {}
        self._records: list[bytes] = []
        self._channel: Channel | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    @classmethod
    def open(cls, address: Path) -> Self:
        """Connect, and wait until the engine is ready.

        Raises OSError if nothing listens there, EngineLost if the engine process ends.
        """
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            connection.connect(str(address))
            packet, descriptors = receive(connection)
            if not packet or packet[0] != Answer.GREETING or not descriptors:
                raise EngineLost
            return cls(connection, Greeting.parse(orjson.loads(packet[1:])), QueuePage(descriptors[0]))
        except BaseException:
            connection.close()
            raise

    def attach(self, on_lost: Callable[[], object]) -> None:
        """Use the event loop that runs from now on; `on_lost` is called when the engine process has ended."""

        def lost() -> None:
            self._fail_all(EngineLost)
            on_lost()

        self._loop = asyncio.get_running_loop()
        self._channel = Channel(self._socket, lambda packet, _: self._on_packet(packet), lost)

    def close(self, error: ErrorClass) -> None:
        """Close the connection; whoever waits for outputs gets the error."""
        self._fail_all(error)
        if self._channel:
            self._channel.close()
        self._socket.close()

    def submit(self, rows: Sequence[EncodedInput], deadline: float | None, outputs: Outputs) -> int:
        """Send rows, whose outputs or error `outputs` receives; returns the request's number."""
        block = self._arena.allocate(self._format.items(rows))
        self._format.write_rows(block.segment.ints, block.offset, rows)
        number = next(self._numbers)
        self._pending[number] = _Pending(block, rows, outputs)
        self._record(Kind.SUBMIT, len(rows), block.number, block.offset, number, deadline)
        return number

    def cancel(self, number: int) -> None:
        """Let the engine forget a request that it has not answered. Its block stays in use until it says so."""
        if number in self._pending:
            self._record(Kind.CANCEL, number=number)

    def run(self, rows: Sequence[EncodedInput]) -> list[RowOutputs]:
        """Run rows and wait, before there is an event loop; raises what the engine raises."""
        while True:
            outputs: Future[list[RowOutputs]] = Future()
            self.submit(rows, None, outputs)
            self._flush()
            while not outputs.done():
                packet, _ = receive(self._socket)
                if not packet:
                    raise EngineLost
                self._on_packet(packet)
            try:
                return outputs.result()
            except Overloaded:  # a worker that replaces another starts under load, too
                time.sleep(RETRY_S)

    def _on_packet(self, packet: bytes) -> None:
        if packet[0] == Answer.DONE:
            for number in decode_done(packet):
                pending = self._pending.pop(number)
                if not pending.outputs.done():
                    block = pending.block
                    outputs = self._format.read_outputs(block.segment.floats, block.offset, pending.rows)
                    pending.outputs.set_result(outputs)
                self._arena.free(pending.block)
        elif packet[0] == Answer.FAILED:
            number, error = decode_error(packet)
            pending = self._pending.pop(number)
            if not pending.outputs.done():
                pending.outputs.set_exception(error)
            self._arena.free(pending.block)

    def _fail_all(self, error: ErrorClass) -> None:
        pending, self._pending = self._pending, {}
        self._arena.clear()
        for each in pending.values():
            if not each.outputs.done():
                each.outputs.set_exception(error())

    def _add_segment(self, number: int, items: int, descriptor: int) -> None:
        self._flush()
        self._send(RECORD.pack(Kind.ADD_SEGMENT, 0, number, items, 0, 0.0), [descriptor])

    def _drop_segment(self, number: int) -> None:
        self._record(Kind.DROP_SEGMENT, segment=number)

    def _record(
        self,
        kind: Kind,
        rows: int = 0,
        segment: int = 0,
        items: int = 0,
        number: int = 0,
        deadline: float | None = None,
    ) -> None:
        """Send a record with all others of this turn of the event loop."""
        if not self._records and self._loop:
            self._loop.call_soon(self._flush)
        self._records.append(
            RECORD.pack(kind, rows, segment, items, number, math.inf if deadline is None else deadline)
        )

    def _flush(self) -> None:
        records, self._records = self._records, []
        for first in range(0, len(records), MAX_RECORDS):
            self._send(b"".join(records[first : first + MAX_RECORDS]))

    def _send(self, packet: bytes, descriptors: Sequence[int] = ()) -> None:
        if self._channel:
            self._channel.send(packet, descriptors)
        else:
            send(self._socket, packet, descriptors)
