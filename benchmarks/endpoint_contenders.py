"""Who takes part in the endpoint benchmark: how each is started, asked and understood."""

import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import orjson

from export.machine import Machine, usable_cores
from export.manifest import Manifest
from serve.bento import ROOT, SERVICE, register, serve_command

HTTP, GRPC = "tuneport HTTP", "tuneport gRPC"
BATCHED = "tuneport HTTP, BentoML's batcher"
TORCH_FP32, TORCH_BF16 = "BentoML + torch fp32", "BentoML + torch bf16"
HOST = "127.0.0.1"
LENGTH_BYTES = 4
"""Of an element's length before it, in raw BYTES tensors."""


@dataclass(frozen=True)
class Contender:
    """A server and the way to ask it."""

    name: str
    command: Callable[[int], list[str]]
    """HTTP port → the command that starts it."""
    path: str
    body: Callable[[Any], bytes]
    """An input → the body of a request."""
    prediction: Callable[[bytes], Any]
    """The body of an answer → the prediction, in the shape that `POST /predict` gives it."""
    protocol: Literal["http", "grpc"] = "http"
    environment: dict[str, str] = field(default_factory=dict)


def contenders(artifact: Path, manifest: Manifest, checkpoint: Path, variant: str | None) -> list[Contender]:
    """Return all that can serve this model on this machine; tuneport's own come first."""
    own = ours(artifact, variant)
    batched = replace(own, name=BATCHED, environment=own.environment | {"TUNEPORT_BATCHER": "bentoml"})
    return [own, *_grpc(own, manifest), batched, *_torch(manifest, checkpoint)]


def left_out(manifest: Manifest) -> list[str]:
    """Say who does not take part, and why."""
    notes = [] if find_spec("serve.grpc") else [f"{GRPC}: this version has no gRPC door."]
    if not _has_pipeline(manifest):
        notes.append(f"{TORCH_FP32} and bf16: written for text classification with one label and one text.")
    elif not Machine.here().has_bf16:
        notes.append(f"{TORCH_BF16}: this processor does not multiply bfloat16.")
    return notes


def ours(artifact: Path, variant: str | None, environment: dict[str, str] | None = None) -> Contender:
    """Return tuneport's own HTTP door, as `tuneport serve` opens it."""
    model = register(artifact)
    chosen = {"TUNEPORT_VARIANT": variant} if variant else {}
    return Contender(
        name=HTTP,
        command=lambda port: [
            *serve_command(SERVICE, host=HOST, port=port, model=model),
            "--working-dir",
            str(ROOT),
        ],
        path="/predict",
        body=lambda given: orjson.dumps({"inputs": given}),
        prediction=lambda body: orjson.loads(body)["predictions"][0],
        environment=chosen | (environment or {}),
    )


def null() -> Contender:
    """Return the server that does nothing."""
    return Contender(
        name="nothing",
        command=lambda port: [sys.executable, str(ROOT / "benchmarks" / "load_null.py"), str(port)],
        path="/predict",
        body=lambda given: orjson.dumps({"inputs": given}),
        prediction=orjson.loads,
    )


def _grpc(own: Contender, manifest: Manifest) -> list[Contender]:
    """Return the gRPC door of the same service: BYTES tensors in raw form, as public clients send them."""
    if find_spec("serve.grpc") is None:
        return []
    from serve.protocol import open_inference_pb2 as pb
    from serve.protocol.tensors import BYTES, JSON, Tensor, fields_of, join_elements

    fields = fields_of(manifest)

    def body(given: Any) -> bytes:
        values = given if isinstance(given, dict) else {fields[0]: given}
        raw = [join_elements(Tensor(name, BYTES, (1,), [values[name].encode()])) for name in fields]
        request = pb.ModelInferRequest(
            model_name=manifest.name,
            inputs=[pb.ModelInferRequest.InferInputTensor(name=name, datatype=BYTES, shape=[1]) for name in fields],
            outputs=[pb.ModelInferRequest.InferRequestedOutputTensor(name=JSON)],
            raw_input_contents=raw,
        )
        return bytes(request.SerializeToString())

    def prediction(body: bytes) -> Any:
        return orjson.loads(pb.ModelInferResponse.FromString(body).raw_output_contents[0][LENGTH_BYTES:])

    path = "/inference.GRPCInferenceService/ModelInfer"
    return [replace(own, name=GRPC, path=path, body=body, prediction=prediction, protocol="grpc")]


def _torch(manifest: Manifest, checkpoint: Path) -> list[Contender]:
    if not _has_pipeline(manifest):
        return []
    kinds = {TORCH_FP32: "float32"} | ({TORCH_BF16: "bfloat16"} if Machine.here().has_bf16 else {})
    return [
        Contender(
            name=name,
            command=_peer("bento_torch:TextClassification"),
            path="/classify",
            body=lambda given: orjson.dumps({"text": given if isinstance(given, str) else given["text"]}),
            prediction=orjson.loads,
            environment={
                "CHECKPOINT": str(checkpoint.resolve()),
                "DTYPE": dtype,
                "MAX_LENGTH": str(manifest.processing.max_length),
                # torch counts the host's processors, not the container's; and a caller may have lowered it.
                "OMP_NUM_THREADS": str(usable_cores()),
            },
        )
        for name, dtype in kinds.items()
    ]


def _has_pipeline(manifest: Manifest) -> bool:
    is_single = manifest.processing.problem_type == "single_label_classification"
    return manifest.task == "text-classification" and is_single and not manifest.processing.accepts_pairs


def _peer(service: str) -> Callable[[int], list[str]]:
    target = f"benchmarks.peers.{service}"
    return lambda port: [*serve_command(target, host=HOST, port=port), "--working-dir", str(ROOT)]
