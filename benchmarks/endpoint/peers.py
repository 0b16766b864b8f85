"""The peers as servers of the endpoint benchmark."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from tuneport.host import usable_cores
from tuneport.schema.artifact import Manifest
from tuneport.schema.torch_setup import TorchDevice

from .. import peers
from ..peers.registry import FAILED, PEERS, Peer
from .targets import EndpointTarget, is_plain_classification

SCRIPTS = Path(peers.__file__).parent


@dataclass(frozen=True)
class _Protocol:
    """What a request to a peer looks like, and what its response means."""

    path: str
    encode_request: Callable[[str], bytes]
    decode_response: Callable[[bytes], Any]
    ready_path: str = "/readyz"


def _best(body: bytes) -> Any:
    """Return the label with the highest score of infinity's response."""
    (scores,) = orjson.loads(body)["data"]
    return max(scores, key=lambda each: each["score"])


def _text(value: Any) -> str:
    return value if isinstance(value, str) else value["text"]


_PIPELINE = _Protocol("/classify", lambda text: orjson.dumps({"text": text}), orjson.loads)
_PROTOCOLS = {
    "litserve": _Protocol("/predict", _PIPELINE.encode_request, orjson.loads),
    "fastapi": _PIPELINE,
    "infinity": _Protocol(
        "/classify", lambda text: orjson.dumps({"input": [text], "model": "model"}), _best, ready_path="/health"
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
    reasons = {peer: _absence(folder / peer.folder) for peer in PEERS}
    absent = tuple(f"{peer.name}: {reason}." for peer, reason in reasons.items() if reason)
    present = [peer for peer, reason in reasons.items() if not reason]
    return [_target(peer, folder, manifest, checkpoint, device) for peer in present], absent


def _absence(folder: Path) -> str | None:
    """Say why a peer has no environment; None if it has one."""
    if (folder / FAILED).is_file():
        return f"it cannot be installed here ({(folder / FAILED).read_text(encoding='utf-8').strip().rstrip('.')})"
    return None if (folder / "bin" / "python").exists() else f"there is no environment in {folder.name}"


def _target(peer: Peer, folder: Path, manifest: Manifest, checkpoint: Path, device: TorchDevice) -> EndpointTarget:
    protocol = _PROTOCOLS[peer.folder]
    python = (folder / peer.folder / "bin" / "python").absolute()
    script = SCRIPTS / f"{peer.folder}_server.py"
    return EndpointTarget(
        name=peer.name,
        command=lambda port: [str(python), str(script), str(port)],
        path=protocol.path,
        encode_request=lambda value: protocol.encode_request(_text(value)),
        decode_response=protocol.decode_response,
        ready_path=protocol.ready_path,
        environment={
            "CHECKPOINT": str(checkpoint.resolve()),
            "DTYPE": "float16" if device == "cuda" else "float32",
            "DEVICE": device,
            "MAX_LENGTH": str(manifest.processing.max_length),
            "OMP_NUM_THREADS": str(usable_cores()),
        },
    )
