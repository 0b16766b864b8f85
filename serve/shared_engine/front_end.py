"""Open an artifact in a worker whose engine is in another process: manifest, tokenizer and task, but no graph."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from tuneport.errors import EngineLost, TuneportError
from tuneport.runtime.batch import EncodedInput, RowOutputs
from tuneport.runtime.device_options import DeviceOptions
from tuneport.runtime.loading import open_task
from tuneport.runtime.predictor import Predictor
from tuneport.runtime.runner import ModelRunner
from tuneport.schema.artifact import Manifest, Variant
from tuneport.schema.loading import load_manifest

from ..inference import Inference
from ..origin import Origin
from ..settings import Settings
from ..supervision import run_folder
from .channel import address_of
from .client import EngineClient


class RemoteRunner(ModelRunner):
    """Runs rows in the engine process; used for golden cases, before the worker serves."""

    single_row_batches = False
    supports_streams = False

    def __init__(self, folder: Path, manifest: Manifest, client: EngineClient) -> None:
        """Open the task with its tokenizer."""
        greeting = client.connection.greeting
        self.task = open_task(folder, manifest.task, manifest.labels, manifest.processing)
        self.limits = greeting.limits
        self.streams = greeting.streams
        self.on_halved = lambda: None
        self._client = client

    def run_batch(self, rows: Sequence[EncodedInput]) -> list[RowOutputs]:
        """Run rows in batches of the engine's choice; no more rows at a time than its queue may hold."""
        limit = self._client.max_queue_inputs
        pieces = (rows[at : at + limit] for at in range(0, len(rows), limit))
        return [outputs for piece in pieces for outputs in self._client.connection.run(piece)]


class FrontEndInference(Inference):
    """A worker's inference, whose batches run in the engine process."""

    def __init__(self, predictor: Predictor, settings: Settings, client: EngineClient) -> None:
        """Use a client that is connected."""
        super().__init__(predictor, settings, lambda *_, **__: client)
        self._client = client

    @property
    def is_ready(self) -> bool:
        """Whether the engine process is there."""
        return self._client.is_ready

    def start(self, on_ready: Callable[[bool], object]) -> None:
        """Receive outputs in the event loop that runs; `on_ready` learns of the engine's end and of the next one."""
        self._client.start(on_ready)


def open_front_end(artifact: Path, settings: Settings, number: int) -> FrontEndInference:
    """Open an artifact for the worker of a number, from 1, and run its golden cases through its engine process.

    Waits for the engine. Raises what `Predictor` raises, SignatureError, and TuneportError without a supervisor.
    """
    origin = Origin.check(artifact, settings)
    folder = run_folder()
    if folder is None:
        problem = "TUNEPORT_ENGINES is set, and no supervisor has started an engine process"
        raise TuneportError(problem, "start the service with `tuneport serve`, or unset it")
    address = address_of(folder, (number - 1) % settings.engine_count + 1)
    max_queue_s = None if settings.max_queue_ms is None else settings.max_queue_ms / 1000
    try:
        client = EngineClient(address, max_queue_inputs=settings.max_queue_inputs, max_queue_s=max_queue_s)
    except OSError as error:
        raise EngineLost from error
    # The engine's process checks whether the variant runs here, because that needs onnxruntime.
    variant = settings.variant or load_manifest(artifact).default_variant
    inference = FrontEndInference(
        Predictor(artifact, variant, open_runner=partial(_open_runner, client)), settings, client
    )
    inference.origin = origin
    return inference


def _open_runner(
    client: EngineClient,
    folder: Path,
    manifest: Manifest,
    variant: Variant,
    *,
    threads: int | None,
    device_options: DeviceOptions,
) -> ModelRunner:
    return RemoteRunner(folder, manifest, client)
