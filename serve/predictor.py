"""An artifact made ready to answer: check the files, open the engine, prove the golden cases."""

import asyncio
import itertools
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from export.files import GateError
from export.manifest import TOKENIZER, GoldenCase, Manifest, Variant, check_files, load_golden, load_manifest
from serve.batcher import Batcher, Result, plan
from serve.engines import Engine, Output, open_engine
from serve.settings import Settings
from serve.tasks import text_classification as task
from serve.tasks.inputs import InputError
from serve.tokenizer import Row, Text, TextTokenizer, pad


class Model:
    """A tokenizer and an engine: texts to raw outputs. The gate, the benchmarks and serving all use it."""

    def __init__(self, tokenizer: TextTokenizer, engine: Engine, pad_id: int, max_batch_tokens: int = 1024) -> None:
        """Join the two."""
        self.tokenizer = tokenizer
        self.engine = engine
        self._pad_id = pad_id
        self._max_batch_tokens = max_batch_tokens

    def run_batch(self, rows: Sequence[Row]) -> list[Result]:
        """Run rows in one batch, padded to the longest; one result a row."""
        outputs = self.engine.run(pad(rows, self._pad_id))
        return [{name: values[i] for name, values in outputs.items()} for i in range(len(rows))]

    def run(self, rows: Sequence[Row]) -> list[Result]:
        """Run any number of rows in the micro-batches that serving would make; results in order."""
        results: list[Result] = [{}] * len(rows)
        for batch in plan([len(row) for row in rows], self._max_batch_tokens):
            for i, result in zip(batch, self.run_batch([rows[i] for i in batch]), strict=True):
                results[i] = result
        return results

    def logits(self, texts: Sequence[Text]) -> Output:
        """Return the graph's `logits` for texts, float32 of shape (texts, labels)."""
        return np.stack([result["logits"] for result in self.run(self.tokenizer.encode(texts))])


def golden_logits(model: Model, cases: Sequence[GoldenCase]) -> Output:
    """Run golden cases in the batches that they name; float32 of shape (cases, labels), in order."""
    logits = []
    for _, batch in itertools.groupby(cases, key=lambda case: case.batch):
        texts: list[Text] = [case.text if case.text_pair is None else (case.text, case.text_pair) for case in batch]
        logits += [result["logits"] for result in model.run_batch(model.tokenizer.encode(texts))]
    return np.stack(logits)


def check_golden(model: Model, cases: Sequence[GoldenCase], variant: Variant) -> float:
    """Return the largest |Δlogit| from torch on the golden cases; a GateError if it is over the tolerance."""
    expected = np.array([case.logits for case in cases], np.float32)
    difference = np.abs(golden_logits(model, cases) - expected).max(-1)
    worst = int(difference.argmax())
    # A NaN compares false with everything, so ask for what must hold.
    if not difference[worst] <= variant.tolerance:
        raise GateError(
            f"variant {variant.name} differs from torch by {difference[worst]:.3g} on the golden case "
            f"{cases[worst].text[:40]!r}, and {variant.tolerance:.3g} is allowed",
            "this machine computes it otherwise: export on it, or choose another variant",
        )
    return float(difference[worst])


class Predictor:
    """Answers requests on one variant of an artifact."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        """Load and prove it; raises a TuneportError unless files, engine and golden cases are all right."""
        self.manifest: Manifest = load_manifest(folder)
        self.variant = self.manifest.variant(settings.variant)
        if settings.device and settings.device != self.variant.device:
            raise InputError(
                f"variant {self.variant.name} is for {self.variant.device}, and {settings.device} was asked for",
                "choose a variant of that device or unset TUNEPORT_DEVICE",
            )
        check_files(folder, self.manifest, self.variant.name)
        self.model = Model(
            TextTokenizer(folder / TOKENIZER, self.manifest.processing),
            open_engine(folder, self.variant, threads=settings.threads),
            self.manifest.processing.pad_token_id,
            settings.max_batch_tokens,
        )
        check_golden(self.model, load_golden(folder), self.variant)  # warms the engine up, too
        self._settings = settings
        self._batcher: Batcher | None = None
        self._tokenizing = ThreadPoolExecutor(1, thread_name_prefix="tokenizer")

    def describe(self) -> dict[str, str]:
        """Name the model in an answer."""
        return {"name": self.manifest.name, "version": self.manifest.version, "variant": self.variant.name}

    def read_parameters(self, parameters: Any) -> task.Parameters:
        """Check a request's `parameters`; an InputError names each that is wrong."""
        try:
            return task.Parameters.model_validate({} if parameters is None else parameters)
        except ValidationError as error:
            wrong = ", ".join(f"{'.'.join(map(str, e['loc'])) or 'parameters'}: {e['msg']}" for e in error.errors())
            raise InputError(
                f"wrong parameters: {wrong}", f"known: {', '.join(task.Parameters.model_fields)}"
            ) from error

    def read_inputs(self, values: Iterable[Any]) -> list[Text]:
        """Check the inputs of a request; an InputError names the first that is wrong."""
        texts = []
        for index, value in enumerate(values):
            try:
                texts.append(task.read(value, self.manifest))
            except InputError as error:
                raise InputError(f"inputs[{index}]: {error.problem}", error.remedy) from error
        return texts

    def predict(self, values: Sequence[Any], parameters: Any = None) -> list[Any]:
        """Answer inputs here and now, in order; for the command line and tests."""
        checked = self.read_parameters(parameters)
        rows = self.model.tokenizer.encode(self.read_inputs(values))
        return self._decode(rows, self.model.run(rows), checked)

    def predict_lines(self, values: Iterable[Any], window: int = 256) -> Iterator[Any]:
        """Answer a stream of inputs of any length in order, a window at a time."""
        source = iter(values)
        while chunk := list(itertools.islice(source, window)):
            yield from self.predict(chunk)

    async def answer(self, values: Sequence[Any], parameters: Any = None) -> list[Any]:
        """Answer one request among others: tokenize off the event loop, batch, run, decode."""
        checked = self.read_parameters(parameters)
        texts = self.read_inputs(values)
        rows = await asyncio.get_running_loop().run_in_executor(self._tokenizing, self.model.tokenizer.encode, texts)
        return self._decode(rows, await self.batcher.submit(rows), checked)

    @property
    def batcher(self) -> Batcher:
        """The batcher of this process, made on first use."""
        if self._batcher is None:
            self._batcher = Batcher(
                self.model.run_batch,
                streams=self.model.engine.streams,
                max_batch_tokens=self._settings.max_batch_tokens,
                max_waiting=self._settings.max_waiting_inputs,
            )
        return self._batcher

    def close(self) -> None:
        """Stop the threads."""
        self._tokenizing.shutdown()
        if self._batcher:
            self._batcher.close()

    def _decode(self, rows: Sequence[Row], results: Sequence[Result], parameters: task.Parameters) -> list[Any]:
        pairs = zip(rows, results, strict=True)
        return [task.decode(row, result, self.manifest, parameters) for row, result in pairs]
