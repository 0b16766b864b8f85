"""Threads for the work of large requests, so that neither the event loop nor other requests wait for it."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from tuneport.errors import ServiceStopping
from tuneport.memory import trim_memory

Result = TypeVar("Result")
LARGE = 32 * 1024
"""Characters, bytes or tokens from which work is large: it takes more than about ten milliseconds."""


class RequestExecutors:
    """Two threads: large pieces of work wait for each other, and small ones only for small ones."""

    def __init__(self) -> None:
        """Start no thread yet."""
        self._small = ThreadPoolExecutor(1, thread_name_prefix="small_requests")
        self._large = ThreadPoolExecutor(1, thread_name_prefix="large_requests")

    async def run(self, size: int, function: Callable[..., Result], *arguments: Any) -> Result:
        """Run a function in the thread for work of this size; raises ServiceStopping after `close`."""
        loop = asyncio.get_running_loop()
        try:
            if size < LARGE:
                return await loop.run_in_executor(self._small, function, *arguments)
            return await loop.run_in_executor(self._large, _and_trim, function, *arguments)
        except RuntimeError as error:
            if "shutdown" not in str(error):
                raise
            raise ServiceStopping from error

    async def run_if_large(self, size: int, function: Callable[..., Result], *arguments: Any) -> Result:
        """Run a function in the thread for large work, or right here if it is small."""
        return function(*arguments) if size < LARGE else await self.run(size, function, *arguments)

    def close(self) -> None:
        """Wait for the work that runs, and end the threads."""
        for executor in (self._small, self._large):
            executor.shutdown(cancel_futures=True)


def _and_trim(function: Callable[..., Result], *arguments: Any) -> Result:
    try:
        return function(*arguments)
    finally:
        trim_memory()  # a large request must not enlarge the process
