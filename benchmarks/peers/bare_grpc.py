"""The bare server over gRPC: `grpc.aio`, with tokenizer and graph in the handler of `ModelInfer`.

ARTIFACT=… TUNEPORT_GRPC_PORT=… python -m tuneport.stages.benchmarks.peers.bare_grpc PORT

HTTP has `/readyz` alone. What gRPC itself costs in Python is the difference from the bare server over HTTP.
"""

import contextlib
import os
import sys
from collections.abc import AsyncIterator
from typing import Any

import grpc
import orjson
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tuneport.stages.serve.grpc import open_inference_pb2 as pb
from tuneport.stages.serve.grpc.servicer import SERVICE
from tuneport.stages.serve.tensors import BYTES, JSON, Tensor, join_elements, split_bytes

from .graph import TextGraph

HOST = "127.0.0.1"


def create_app() -> Starlette:
    """Return the application that starts the gRPC server, with `/readyz`."""
    graph = TextGraph()

    async def infer(request: Any, context: Any) -> Any:
        [raw] = request.raw_input_contents
        texts = [element.decode() for element in split_bytes("text", raw, request.inputs[0].shape[0])]
        elements = [orjson.dumps(prediction) for prediction in graph.classify(texts)]
        response = pb.ModelInferResponse(model_name=request.model_name, id=request.id)
        response.outputs.add(name=JSON, datatype=BYTES, shape=[len(texts)])
        response.raw_output_contents.append(join_elements(Tensor(JSON, BYTES, (len(texts),), elements)))
        return response

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        server = grpc.aio.server()
        handler = grpc.unary_unary_rpc_method_handler(
            infer, pb.ModelInferRequest.FromString, pb.ModelInferResponse.SerializeToString
        )
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {"ModelInfer": handler}),))
        server.add_insecure_port(f"{HOST}:{os.environ['TUNEPORT_GRPC_PORT']}")
        await server.start()
        yield
        await server.stop(0)

    async def ready(request: Request) -> Response:
        return Response()

    return Starlette(routes=[Route("/readyz", ready)], lifespan=lifespan)


if __name__ == "__main__":
    uvicorn.run(create_app(), port=int(sys.argv[1]), loop="uvloop", http="httptools", access_log=False, log_config=None)
