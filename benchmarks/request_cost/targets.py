"""The servers of the benchmark of the cost of a request, all with the same graph."""

import sys
from dataclasses import replace
from pathlib import Path

import orjson

from tuneport.schema.artifact import Manifest
from tuneport.stages.serve.bento import serve_command

from ..endpoint.targets import (
    HOST,
    PREDICT_PATH,
    EndpointTarget,
    bentoml_target,
    encode_predict,
    grpc_target,
    http_target,
)
from ..peers.graph import ARTIFACT

BARE, BENTOML_SERVE, BATCHABLE = "bare Starlette", "bentoml serve, HTTP", "BentoML batchable=True"
TUNEPORT, TUNEPORT_GRPC = "tuneport serve, HTTP", "tuneport serve, gRPC"
BARE_GRPC = "bare gRPC"
BARE_SERVER = "tuneport.stages.benchmarks.peers.bare_starlette"
BARE_GRPC_SERVER = "tuneport.stages.benchmarks.peers.bare_grpc"
BATCHABLE_SERVICE = "tuneport.stages.benchmarks.peers.bento_batchable:TextClassification"


def request_cost_targets(artifact: Path, manifest: Manifest) -> list[EndpointTarget]:
    """Return the servers: the bare one first, then tuneport over HTTP."""
    python = [sys.executable, "-P", "-m"]
    environment = {ARTIFACT: str(artifact.resolve())}
    bentoml_serve = bentoml_target(artifact, None, name=BENTOML_SERVE)
    tuneport = replace(http_target(artifact, None), name=TUNEPORT)
    bare = EndpointTarget(
        name=BARE,
        command=lambda port: [*python, BARE_SERVER, str(port)],
        path=PREDICT_PATH,
        encode_request=encode_predict,
        decode_response=tuneport.decode_response,
        environment=environment,
    )
    batchable = EndpointTarget(
        name=BATCHABLE,
        command=lambda port: serve_command(BATCHABLE_SERVICE, host=HOST, port=port),
        path="/classify",
        encode_request=lambda value: orjson.dumps({"texts": value if isinstance(value, list) else [value]}),
        decode_response=lambda body: orjson.loads(body)[0],
        environment=environment,
    )
    grpc = replace(grpc_target(tuneport, manifest), name=TUNEPORT_GRPC)
    bare_grpc = replace(
        grpc, name=BARE_GRPC, command=lambda port: [*python, BARE_GRPC_SERVER, str(port)], environment=environment
    )
    return [bare, tuneport, bare_grpc, grpc, bentoml_serve, batchable]
