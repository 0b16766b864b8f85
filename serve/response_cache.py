"""A cache of responses by input, parameters and artifact: the least recently used leave first; bounded in bytes."""

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from .inference import InferenceResult

KEY_BYTES = 16
ENTRY_BYTES = 400
"""What an entry takes beside its prediction: key, object and place in the order."""


@dataclass(frozen=True, slots=True)
class _Entry:
    prediction: bytes
    """JSON, so that what a response does to its predictions changes nothing here."""
    prompt_tokens: int
    truncated: bool

    @property
    def size(self) -> int:
        return len(self.prediction) + ENTRY_BYTES


class ResponseCache:
    """Keeps the predictions of a model whose outputs depend on nothing but input and parameters."""

    def __init__(self, max_bytes: int, artifact: str) -> None:
        """`artifact` identifies the files and the variant that serve."""
        self._max_bytes = max_bytes
        self._artifact = artifact.encode()
        self._entries: OrderedDict[bytes, _Entry] = OrderedDict()
        self.bytes = 0

    def keys(self, inputs: Sequence[Any], parameters: Any) -> list[bytes | None]:
        """Return a key for each input; None for one that is not JSON, as a recording is."""
        try:
            common = orjson.dumps(parameters or {}, option=orjson.OPT_SORT_KEYS)
        except TypeError:
            return [None] * len(inputs)
        start = hashlib.blake2b(b"%d:%s%d:%s" % (len(self._artifact), self._artifact, len(common), common))
        return [_key(start, value) for value in inputs]

    def get(self, key: bytes | None) -> InferenceResult | None:
        """Return the result of a key, if it is there."""
        entry = self._entries.get(key) if key is not None else None
        if entry is None or key is None:
            return None
        self._entries.move_to_end(key)
        return InferenceResult(orjson.loads(entry.prediction), entry.prompt_tokens, 0, entry.truncated)

    def put(self, key: bytes | None, result: InferenceResult) -> None:
        """Keep a result, and drop those that were not used for longest until all fit."""
        if key is None or key in self._entries:
            return
        entry = _Entry(orjson.dumps(result.prediction), result.prompt_tokens, result.truncated)
        if entry.size > self._max_bytes:
            return
        self._entries[key] = entry
        self.bytes += entry.size
        while self.bytes > self._max_bytes:
            self.bytes -= self._entries.popitem(last=False)[1].size


def _key(start: hashlib.blake2b, value: Any) -> bytes | None:
    digest = start.copy()
    try:
        digest.update(orjson.dumps(value, option=orjson.OPT_SORT_KEYS))
    except TypeError:  # bytes, half of a surrogate pair, or a number that JSON cannot hold
        return None
    return digest.digest()[:KEY_BYTES]
