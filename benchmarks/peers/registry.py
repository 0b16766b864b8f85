"""The servers that users run instead, one file each, and what each needs to be installed."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Peer:
    """A server with an environment of its own, which `install.py` makes."""

    name: str
    """In reports."""
    folder: str
    """Of its environment, below the folder of all of them; also the name of its file."""
    requirements: tuple[str, ...]
    """Pinned. torch and transformers are those of tuneport's environment, so that the engine is the same."""


PEERS = (
    Peer("LitServe + torch", "litserve", ("litserve==0.2.19",)),
    Peer("FastAPI + torch", "fastapi", ("fastapi==0.165.0", "uvicorn[standard]==0.54.0")),
    Peer("infinity + torch", "infinity", ("infinity-emb[server,torch]==0.0.78",)),
    Peer("Ray Serve + torch", "rayserve", ("ray[serve]==2.60.0",)),
    Peer("MLServer, Hugging Face runtime", "mlserver", ("mlserver==1.7.1", "mlserver-huggingface==1.7.1")),
    Peer("Triton's Python backend (PyTriton)", "pytriton", ("nvidia-pytriton==0.7.0",)),
)
FAILED = "failed.txt"
"""Why an environment could not be made; in place of it."""
