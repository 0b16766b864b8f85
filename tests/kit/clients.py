"""Calls through either client, and what a scripted server answers them."""

import asyncio
from collections.abc import Callable
from typing import Any

import tuneport
from kit.scripted import Answer
from kit.texts import random_texts

TEXTS = [text for text, _ in zip(random_texts(71), range(9), strict=False)] + ["", "Größe 🙂 世界"]
BUSY = Answer(503, b'{"error": {"code": "stopping", "message": "the service is stopping", "remedy": "again"}}')
Call = Callable[..., Any]


def call_sync(url: str, method: str, *arguments: Any, **settings: Any) -> Any:
    """Call a method of a `Client`."""
    with tuneport.Client(url, **settings) as client:
        return getattr(client, method)(*arguments)


def call_async(url: str, method: str, *arguments: Any, **settings: Any) -> Any:
    """Call a method of an `AsyncClient`, in an event loop of its own."""

    async def run() -> Any:
        async with tuneport.AsyncClient(url, **settings) as client:
            return await getattr(client, method)(*arguments)

    return asyncio.run(run())
