"""The peers as servers of the endpoint benchmark."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from tuneport.schema.artifact import Manifest
from tuneport.schema.torch_setup import TorchDevice

from ..peers.registry import Peer, peers_of
from .targets import TORCH_START_TIMEOUT_S, EndpointTarget, is_plain_classification, text_of, torch_environment


@dataclass(frozen=True)
class _Protocol:
    """What a request to a peer looks like, and what its response means."""

    path: str
    encode_request: Callable[[str], bytes]
    decode_response: Callable[[bytes], Any]
    ready_path: str = "/readyz"


def _json_text(text: str) -> bytes:
    return orjson.dumps({"text": text})


def _infinity_request(text: str) -> bytes:
    return orjson.dumps({"input": [text], "model": "model"})


def _infinity_best(body: bytes) -> Any:
    """Return the label with the highest score."""
    (scores,) = orjson.loads(body)["data"]
    return max(scores, key=lambda each: each["score"])


def _inference_request(name: str, shape: list[int]) -> Callable[[str], bytes]:
    """Return the encoder of a request of the Open Inference Protocol: one text as a BYTES tensor."""
    return lambda text: orjson.dumps({"inputs": [{"name": name, "shape": shape, "datatype": "BYTES", "data": [text]}]})


def _mlserver_prediction(body: bytes) -> Any:
    """Return the pipeline's answer, which the runtime writes as JSON into a BYTES tensor."""
    (output,) = orjson.loads(body)["outputs"]
    return orjson.loads(output["data"][0])


def _triton_prediction(body: bytes) -> Any:
    values = {output["name"]: output["data"][0] for output in orjson.loads(body)["outputs"]}
    return {"label": values["label"], "score": values["score"]}


_PROTOCOLS = {
    "litserve": _Protocol("/predict", _json_text, orjson.loads),
    "fastapi": _Protocol("/classify", _json_text, orjson.loads),
    "infinity": _Protocol("/classify", _infinity_request, _infinity_best, ready_path="/health"),
    "rayserve": _Protocol("/", _json_text, orjson.loads, ready_path="/"),
    "mlserver": _Protocol(
        "/v2/models/model/infer",
        _inference_request("array_inputs", [1]),
        _mlserver_prediction,
        ready_path="/v2/models/model/ready",
    ),
    "pytriton": _Protocol(
        "/v2/models/model/infer",
        _inference_request("text", [1, 1]),
        _triton_prediction,
        ready_path="/v2/models/model/ready",
    ),
}


def peer_targets(
    folder: Path | None, manifest: Manifest, checkpoint: Path, device: TorchDevice
) -> tuple[list[EndpointTarget], tuple[str, ...]]:
    """Return the peers whose environments are below `folder`, and a sentence for each other one with the reason."""
    if folder is None:
        return [], ("Other servers take no part: --peers names the folder of their environments.",)
    if not is_plain_classification(manifest):
        return [], ("Other servers: written for text classification with one label and one text.",)
    reasons = {peer: peer.absence(folder) for peer in peers_of("server")}
    absent = tuple(f"{peer.name}: {reason}." for peer, reason in reasons.items() if reason)
    present = [peer for peer, reason in reasons.items() if not reason]
    return [_target(peer, folder, manifest, checkpoint, device) for peer in present], absent


def _target(peer: Peer, folder: Path, manifest: Manifest, checkpoint: Path, device: TorchDevice) -> EndpointTarget:
    protocol = _PROTOCOLS[peer.folder]
    return EndpointTarget(
        name=peer.name,
        command=lambda port: [str(peer.python(folder)), str(peer.script), str(port)],
        path=protocol.path,
        encode_request=lambda value: protocol.encode_request(text_of(value)),
        decode_response=protocol.decode_response,
        ready_path=protocol.ready_path,
        start_timeout_s=TORCH_START_TIMEOUT_S,
        is_peer=True,
        environment=torch_environment(manifest, checkpoint, device, "float16" if device == "cuda" else "float32"),
    )
