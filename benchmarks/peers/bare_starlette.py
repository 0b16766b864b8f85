"""A server with nothing but the model: Starlette on uvicorn (uvloop, httptools), tokenizer and graph in the handler.

ARTIFACT=… python -m tuneport.stages.benchmarks.peers.bare_starlette PORT

No batching, no queue, no limits, no log, no metrics: what a front end costs is what it takes beyond this one.
"""

import sys

import orjson
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from .graph import TextGraph


def create_app() -> Starlette:
    """Return the application: `POST /predict` and `/readyz`."""
    graph = TextGraph()

    async def predict(request: Request) -> Response:
        inputs = orjson.loads(await request.body())["inputs"]
        texts = inputs if isinstance(inputs, list) else [inputs]
        return Response(orjson.dumps({"predictions": graph.classify(texts)}), media_type="application/json")

    async def ready(request: Request) -> Response:
        return Response()

    return Starlette(routes=[Route("/predict", predict, methods=["POST"]), Route("/readyz", ready)])


if __name__ == "__main__":
    uvicorn.run(create_app(), port=int(sys.argv[1]), loop="uvloop", http="httptools", access_log=False, log_config=None)
