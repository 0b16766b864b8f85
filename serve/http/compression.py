"""Decompress the body of a request: a small one at once, what may be large in the thread for large work."""

import zlib
from typing import Any

from tuneport.errors import MalformedRequest, PayloadTooLarge

from ..request_executors import LARGE, RequestExecutors

IDENTITY, GZIP = "identity", ("gzip", "x-gzip")
GZIP_WINDOW = 16 + zlib.MAX_WBITS
"""zlib's code for the header and trailer of gzip."""


async def decompress(executors: RequestExecutors, body: bytes, limit: int) -> bytes:
    """Decompress one gzip stream into at most `limit` bytes; no more than one byte over it is ever in memory.

    A small body may hold much, so that only one whose content is small, too, is decompressed at once. Raises
    PayloadTooLarge, and MalformedRequest for a body that is not gzip.
    """
    stream = zlib.decompressobj(GZIP_WINDOW)
    if len(body) >= LARGE:
        return await executors.run(LARGE, _read_rest, stream, b"", body, limit)
    most = min(LARGE, limit + 1)
    beginning = _read(stream, body, most)
    if len(beginning) < most:
        return _checked(stream, beginning, limit)
    return await executors.run(LARGE, _read_rest, stream, beginning, stream.unconsumed_tail, limit)


def _read_rest(stream: Any, beginning: bytes, rest: bytes, limit: int) -> bytes:
    most = limit + 1 - len(beginning)  # for which 0 would be no limit
    return _checked(stream, beginning + (_read(stream, rest, most) if most else b""), limit)


def _read(stream: Any, body: bytes, most: int) -> bytes:
    try:
        content: bytes = stream.decompress(body, most)
    except zlib.error as error:
        raise _not_gzip(str(error)) from error
    return content


def _checked(stream: Any, content: bytes, limit: int) -> bytes:
    if len(content) > limit:
        raise PayloadTooLarge(f"the body holds over {limit} bytes", "send several smaller requests")
    if not stream.eof or stream.unused_data:
        raise _not_gzip("it has no end" if not stream.eof else "something follows its end")
    return content


def _not_gzip(reason: str) -> MalformedRequest:
    remedy = "compress it as one stream, or leave out Content-Encoding"
    return MalformedRequest(f"the body cannot be decompressed ({reason})", remedy, code="not_gzip")
