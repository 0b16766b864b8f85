"""The artifact's variants beside the one that serves, for the playground: opened when they are first asked for."""

import asyncio
from collections.abc import Sequence
from typing import Any

from tuneport.errors import DeadlineExceeded, NotFound, TuneportError
from tuneport.runtime.availability import obstacles

from .inference import Inference, InferenceResult
from .settings import Settings


class OtherVariants:
    """Opens variants as the service opens its own, golden cases included, and keeps them.

    There are none unless the setting `playground_variants` is on.
    """

    def __init__(self, serving: Inference, settings: Settings) -> None:
        """List the variants that run on this host."""
        self._artifact = serving.predictor.folder
        self._settings = settings
        self._opened: dict[str, Inference] = {}
        self._opening: dict[str, asyncio.Task[Inference]] = {}
        self.names: tuple[str, ...] = ()
        if settings.playground_variants:
            manifest = serving.predictor.manifest
            able = [name for name, obstacle in obstacles(manifest).items() if obstacle is None]
            self.names = tuple(name for name in able if name != serving.predictor.variant.name)

    async def infer(self, name: str, inputs: Sequence[Any], parameters: Any) -> list[InferenceResult]:
        """Answer inputs with a variant, within the request timeout of it once it is open.

        Raises NotFound for a variant that is not in `names`, or that cannot be opened, and what `Inference.run` raises.
        """
        inference = await self._open(name)
        seconds = self._settings.request_timeout_s
        try:
            async with asyncio.timeout(seconds):
                deadline = asyncio.get_running_loop().time() + seconds
                return await inference.run(inputs, parameters, deadline=deadline)
        except TimeoutError:
            raise DeadlineExceeded(f"no answer within {seconds:g} s", "send a shorter input") from None

    def describe(self, name: str) -> dict[str, str]:
        """Return the name, version and variant of an open variant, as in responses."""
        return self._opened[name].predictor.describe()

    def close(self) -> None:
        """Stop the threads of what is open."""
        for inference in self._opened.values():
            inference.close()

    def release(self) -> None:
        """Let go of what was open, after `close`; see `Inference.release`."""
        while self._opened:
            self._opened.popitem()[1].release()

    async def _open(self, name: str) -> Inference:
        if name not in self.names:
            known = ", ".join(self.names) or "none: set TUNEPORT_PLAYGROUND_VARIANTS=true"
            raise NotFound(f"there is no other variant {name[:80]!r}", f"choose among {known}", code="no_variant")
        if name in self._opened:
            return self._opened[name]
        if name not in self._opening:
            self._opening[name] = asyncio.create_task(self._keep_open(name))
        try:
            return await asyncio.shield(self._opening[name])  # a client that leaves does not stop it
        except TuneportError as error:
            raise NotFound(f"{name}: {error.problem}", error.remedy, code="no_variant") from error

    async def _keep_open(self, name: str) -> Inference:
        settings = self._settings.model_copy(update={"variant": name, "max_batch_tokens": None})
        try:
            self._opened[name] = await asyncio.to_thread(Inference.open, self._artifact, settings)
        finally:
            del self._opening[name]
        return self._opened[name]
