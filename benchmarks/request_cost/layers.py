"""What each layer of one short request costs: processor time, in this process, with an engine that answers at once."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from statistics import quantiles

import numpy as np
import orjson
import uvloop
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from tuneport.runtime.batch import EncodedInput, RowOutputs
from tuneport.schema.base import Frozen
from tuneport.stages.serve.admission import AdmissionController
from tuneport.stages.serve.http.app import create_app
from tuneport.stages.serve.http.predict_body import parse_body
from tuneport.stages.serve.inference import Inference
from tuneport.stages.serve.models.registry import ModelRegistry
from tuneport.stages.serve.settings import Settings

from ..endpoint.http_cost import discarded_log, http_cpu_us
from ..load.plan import OK

SLICES, CALLS = 40, 50
"""Timed slices of a layer, and calls in each: their first quartile is reported, since other work only adds to them."""
ENGINE_ROWS = 8
"""Requests that come together."""


class LayerCost(Frozen):
    """Processor time of one layer, for one request."""

    name: str
    cpu_us: float


def measure_layers(artifact: Path, text: str) -> tuple[LayerCost, ...]:
    """Time each layer of a request of one text, and the whole request, over HTTP."""
    settings = Settings()
    inference = Inference.open(artifact, settings)
    admission, run = AdmissionController(inference, settings), inference.predictor.runner.run_batch
    logits = np.zeros(len(inference.predictor.manifest.labels), np.float32)

    def answer_at_once(rows: Sequence[EncodedInput]) -> list[RowOutputs]:
        return [{"logits": logits} for _ in rows]

    inference.predictor.runner.run_batch = answer_at_once  # type: ignore[method-assign]
    body = orjson.dumps({"inputs": text})
    try:
        with discarded_log():
            layers = {"HTTP: sockets, parser, uvicorn": http_cpu_us(_empty_app, body, OK)}
            layers |= uvloop.run(_time_layers(admission, text, body))
            whole = http_cpu_us(create_app(ModelRegistry(admission)), body, OK)
        rows = [row for windows in inference.predictor.task.encode([text]) for row in windows] * ENGINE_ROWS
        engine = {
            "engine, a row alone": _cpu_us(lambda: run(rows[:1])),
            f"engine, a row of {ENGINE_ROWS}": _cpu_us(lambda: run(rows)) / ENGINE_ROWS,
        }
    finally:
        inference.close()
    layers["frame, routes, tasks (the rest)"] = whole - sum(layers.values())
    layers["a request without the engine"] = whole
    return tuple(LayerCost(name=name, cpu_us=round(cost, 1)) for name, cost in (layers | engine).items())


async def _time_layers(admission: AdmissionController, text: str, body: bytes) -> dict[str, float]:
    inference, task = admission.inference, admission.inference.predictor.task
    parameters = inference.predictor.parse_parameters(None)
    windows = task.encode_request([text], parameters)
    outputs = [await inference.batcher.submit(windows[0])]
    predictions = task.decode_request([text], windows, outputs, parameters)
    content = {"predictions": predictions, "model": admission.model}

    def admit() -> None:
        with admission.acquire_slot(needs_engine=True):
            admission.check_size([text])

    async def submit_together() -> None:
        await asyncio.gather(*(inference.batcher.submit(windows[0]) for _ in range(ENGINE_ROWS)))

    def record() -> None:
        admission.metrics.answers.predictions(predictions)
        admission.record_request("http", "predict", "200", time.perf_counter(), "0" * 16)

    return {
        "admission": _cpu_us(admit),
        "JSON to inputs": _cpu_us(lambda: inference.predictor.parse_inputs(parse_body(body)[0])),
        "tokenizer": _cpu_us(lambda: task.encode_request([text], parameters)),
        "queue, the engine's thread and back": await _cpu_us_async(submit_together) / ENGINE_ROWS,
        "outputs to prediction": _cpu_us(lambda: task.decode_request([text], windows, outputs, parameters)),
        "prediction to JSON": _cpu_us(lambda: orjson.dumps(content)),
        "metrics, log line": _cpu_us(record),
    }


async def _empty_app(scope: Scope, receive: Receive, send: Send) -> None:
    """Read the request and answer `{}`."""
    await receive()
    await Response(b"{}", media_type="application/json")(scope, receive, send)


def _cpu_us(layer: Callable[[], object]) -> float:
    slices = []
    for _ in range(SLICES):
        began = time.process_time()
        for _ in range(CALLS):
            layer()
        slices.append(time.process_time() - began)
    return 1e6 * quantiles(slices)[0] / CALLS


async def _cpu_us_async(layer: Callable[[], Awaitable[object]]) -> float:
    slices = []
    for _ in range(SLICES):
        began = time.process_time()
        for _ in range(CALLS):
            await layer()
        slices.append(time.process_time() - began)
    return 1e6 * quantiles(slices)[0] / CALLS
