"""The servers of the endpoint benchmark: how each is started, what a request looks like, and what a response means."""

import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import orjson

from tuneport.host import Host, usable_cores
from tuneport.runtime.availability import variant_here
from tuneport.schema.artifact import Manifest
from tuneport.schema.torch_setup import TorchDevice
from tuneport.stages.export.torch_device import TORCH_DEVICES
from tuneport.stages.serve.bento import SERVICE, register, serve_command
from tuneport.stages.serve.process import START_TIMEOUT_S

from .results import GRPC, HTTP

BENTO_BATCHER = "tuneport HTTP, BentoML's batcher"
TORCH_FP32, TORCH_BF16 = "BentoML + torch fp32", "BentoML + torch bf16"
TORCH_FP16 = "BentoML + torch fp16"
HOST = "127.0.0.1"
PREDICT_PATH = "/predict"
GRPC_PATH = "/inference.GRPCInferenceService/ModelInfer"
TORCH_START_TIMEOUT_S = 180.0
"""On a busy machine the imports of torch and transformers take a minute; some peers start several processes."""
NULL_SERVER = "tuneport.stages.benchmarks.load.null_server"
TORCH_SERVICE = "tuneport.stages.benchmarks.peers.bento_torch:TextClassification"
BATCHABLE_SERVICE = "tuneport.stages.benchmarks.peers.bento_torch_batchable:TextClassification"
BATCHED_SERVICE = "tuneport.stages.benchmarks.peers.bento_batched:BentoBatched"


@dataclass(frozen=True)
class EndpointTarget:
    """A server, and how to talk to it."""

    name: str
    command: Callable[[int], list[str]]
    """HTTP port → the command that starts the server."""
    path: str
    encode_request: Callable[[Any], bytes]
    """Input → request body."""
    decode_response: Callable[[bytes], Any]
    """Response body → prediction, in the shape of `POST /predict`."""
    protocol: Literal["http", "grpc"] = "http"
    environment: dict[str, str] = field(default_factory=dict)
    ready_path: str = "/readyz"
    """Answers with 200 once the server is ready."""
    start_timeout_s: float = START_TIMEOUT_S
    runs_variant: bool = False
    """Whether it serves the artifact's variant, and not torch."""
    is_peer: bool = False
    """Whether the benchmark goes on without it if it does not start, or answers otherwise than torch."""


def endpoint_targets(artifact: Path, manifest: Manifest, checkpoint: Path, variant: str | None) -> list[EndpointTarget]:
    """Return the servers that can serve this model on this host, tuneport over HTTP first."""
    http = http_target(artifact, variant)
    bento_batcher = bentoml_target(artifact, variant, name=BENTO_BATCHER, service=BATCHED_SERVICE)
    torch_servers = torch_targets(manifest, checkpoint, served_device(manifest, variant))
    return [http, grpc_target(http, manifest), bento_batcher, *torch_servers]


def served_device(manifest: Manifest, variant: str | None) -> TorchDevice:
    """Return the device that a variant serves on, without a name the one for this host; torch is served on the same."""
    return TORCH_DEVICES[variant_here(manifest, variant).execution.device]


def absent_targets(manifest: Manifest, device: TorchDevice) -> list[str]:
    """Return a sentence for each server that cannot take part: which, and why."""
    if not is_plain_classification(manifest):
        return ["BentoML + torch: written for text classification with one label and one text."]
    if device == "cpu" and not Host.here().has_bf16:
        return [f"{TORCH_BF16}: this processor has no bfloat16 instructions."]
    return []


def http_target(artifact: Path, variant: str | None) -> EndpointTarget:
    """Return tuneport's HTTP endpoint as `tuneport serve` starts it."""
    serve = [sys.executable, "-P", "-m", "tuneport", "serve", str(artifact.resolve()), "--host", HOST, "--port"]
    return EndpointTarget(
        name=HTTP,
        command=lambda port: [*serve, str(port)],
        path=PREDICT_PATH,
        encode_request=encode_predict,
        decode_response=lambda body: orjson.loads(body)["predictions"][0],
        environment={"TUNEPORT_VARIANT": variant} if variant else {},
        runs_variant=True,
    )


def bentoml_target(artifact: Path, variant: str | None, *, name: str, service: str = SERVICE) -> EndpointTarget:
    """Return an endpoint of the artifact that `bentoml serve` starts, by default of tuneport's service."""
    model = register(artifact)
    return replace(
        http_target(artifact, variant),
        name=name,
        command=lambda port: serve_command(service, host=HOST, port=port, model=model),
    )


def grpc_target(http: EndpointTarget, manifest: Manifest) -> EndpointTarget:
    """Return the gRPC endpoint of the same service: BYTES tensors in raw form, as public clients send them."""
    # Imported here: these stubs and tritonclient's cannot be in one process (duplicate descriptors).
    from tuneport.stages.serve.grpc import open_inference_pb2 as pb
    from tuneport.stages.serve.tensors import BYTES, JSON, LENGTH_BYTES, Tensor, fields_of, join_elements

    fields = fields_of(manifest)

    def encode_request(value: Any) -> bytes:
        texts = {JSON: orjson.dumps(value).decode()} if fields == (JSON,) else _texts_by_field(value, fields)
        request = pb.ModelInferRequest(
            model_name=manifest.name,
            inputs=[pb.ModelInferRequest.InferInputTensor(name=name, datatype=BYTES, shape=[1]) for name in fields],
            outputs=[pb.ModelInferRequest.InferRequestedOutputTensor(name=JSON)],
            raw_input_contents=[join_elements(Tensor(name, BYTES, (1,), [texts[name].encode()])) for name in fields],
        )
        return bytes(request.SerializeToString())

    def decode_response(body: bytes) -> Any:
        # Raw BYTES: each element follows its length.
        return orjson.loads(pb.ModelInferResponse.FromString(body).raw_output_contents[0][LENGTH_BYTES:])

    return replace(
        http,
        name=GRPC,
        path=GRPC_PATH,
        encode_request=encode_request,
        decode_response=decode_response,
        protocol="grpc",
    )


def torch_targets(manifest: Manifest, checkpoint: Path, device: TorchDevice) -> list[EndpointTarget]:
    """Return a transformers pipeline behind BentoML: on a GPU in fp16, else in fp32 and, if the processor can, bf16.

    The last one has BentoML's adaptive batching, in the first precision.
    """
    if not is_plain_classification(manifest):
        return []
    if device == "cuda":
        dtypes = {TORCH_FP16: "float16"}
    else:
        dtypes = {TORCH_FP32: "float32"} | ({TORCH_BF16: "bfloat16"} if Host.here().has_bf16 else {})
    targets = [
        EndpointTarget(
            name=name,
            command=lambda port: serve_command(TORCH_SERVICE, host=HOST, port=port),
            path="/classify",
            encode_request=lambda value: orjson.dumps({"text": text_of(value)}),
            decode_response=orjson.loads,
            environment=torch_environment(manifest, checkpoint, device, dtype),
            start_timeout_s=TORCH_START_TIMEOUT_S,
        )
        for name, dtype in dtypes.items()
    ]
    batchable = replace(
        targets[0],
        name=f"{targets[0].name}, batchable",
        command=lambda port: serve_command(BATCHABLE_SERVICE, host=HOST, port=port),
        encode_request=lambda value: orjson.dumps({"texts": [text_of(value)]}),
        decode_response=lambda body: orjson.loads(body)[0],
    )
    return [*targets, batchable]


def torch_environment(manifest: Manifest, checkpoint: Path, device: TorchDevice, dtype: str) -> dict[str, str]:
    """Return the variables that all servers of the checkpoint in torch read."""
    return {
        "CHECKPOINT": str(checkpoint.resolve()),
        "DTYPE": dtype,
        "DEVICE": device,
        "MAX_LENGTH": str(manifest.processing.max_length),
        # torch would count the host's processors instead of the container's, and a caller's value may be lower.
        "OMP_NUM_THREADS": str(usable_cores()),
    }


def text_of(value: Any) -> str:
    """Return the text of an input."""
    return value if isinstance(value, str) else value["text"]


def null_target() -> EndpointTarget:
    """Return the server that does no work, which shows what the load generator itself can reach."""
    return EndpointTarget(
        name="no work",
        command=lambda port: [sys.executable, "-P", "-m", NULL_SERVER, str(port)],
        path=PREDICT_PATH,
        encode_request=encode_predict,
        decode_response=orjson.loads,
    )


def encode_predict(value: Any) -> bytes:
    """Return the body of `POST /predict` for an input, or for a list of them."""
    return orjson.dumps({"inputs": value})


def _texts_by_field(value: Any, fields: tuple[str, ...]) -> dict[str, str]:
    return value if isinstance(value, dict) else {fields[0]: value}


def is_plain_classification(manifest: Manifest) -> bool:
    """Tell whether transformers' text-classification pipeline answers the same: one label, one text."""
    is_single_label = manifest.processing.problem_type == "single_label_classification"
    return manifest.task == "text-classification" and is_single_label and not manifest.processing.accepts_pairs
