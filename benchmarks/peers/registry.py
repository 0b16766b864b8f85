"""What users run instead, one file each, and what each needs to be installed."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tuneport.errors import TuneportError
from tuneport.schema.artifact import Precision
from tuneport.schema.torch_setup import TorchDevice

FAILED = "failed.txt"
"""Why an environment could not be made; in place of it."""
Kind = Literal["server", "graph", "generator"]


@dataclass(frozen=True)
class Peer:
    """A program with an environment of its own, which `install.py` makes."""

    name: str
    """In reports."""
    folder: str
    """Of its environment, below the folder of all of them."""
    requirements: tuple[str, ...]
    """Pinned. The torch and transformers that run a model are tuneport's own, so that the engine is the same."""
    alone: tuple[str, ...] = ()
    """Pinned, too, and installed without the packages that they ask for, which do not work with the others."""
    kind: Kind = "server"
    """A server of the endpoint benchmark; or of the engine benchmark: a graph for ONNX Runtime, or a process that
    generates tokens."""
    precisions: tuple[Precision, ...] = ()
    """Of a graph or generator, each a target of its own."""
    device: TorchDevice = "cpu"
    """Of a graph or generator."""
    tasks: tuple[str, ...] = ()
    """Of a generator."""
    program: str = ""
    """Beginning of its file's name; by default that of its environment's folder."""

    @property
    def script(self) -> Path:
        """Return its file."""
        return Path(__file__).parent / f"{self.program or self.folder}_{self.kind}.py"

    def absence(self, folder: Path) -> str | None:
        """Say why it has no environment below the folder of all of them; None if it has one."""
        failed = folder / self.folder / FAILED
        if failed.is_file():
            return f"it cannot be installed here ({failed.read_text(encoding='utf-8').strip().rstrip('.')})"
        return None if self.python(folder).exists() else f"there is no environment in {self.folder}"

    def python(self, folder: Path) -> Path:
        """Return its interpreter; tuneport's own where that has all it needs."""
        return Path(sys.executable) if not self.requirements else (folder / self.folder / "bin" / "python").absolute()


PEERS = (
    Peer("LitServe + torch", "litserve", ("litserve==0.2.19",)),
    Peer("FastAPI + torch", "fastapi", ("fastapi==0.165.0", "uvicorn[standard]==0.54.0")),
    Peer(
        "infinity + torch",
        "infinity",
        (
            "click==8.1.8",
            "fastapi==0.165.0",
            "posthog==7.91.1",
            "prometheus-fastapi-instrumentator==8.1.0",
            "rich==13.9.4",
            "sentence-transformers==3.4.1",
            "typer==0.12.5",
            "uvicorn[standard]==0.32.1",
        ),
        # It wants NumPy 1, for which this pandas and this pyarrow were not built.
        alone=("infinity-emb==0.0.78",),
    ),
    Peer("Ray Serve + torch", "rayserve", ("ray[serve]==2.60.0",)),
    Peer(
        "MLServer, Hugging Face runtime",
        "mlserver",
        # The last transformers with conversations, which it imports, and a uvloop that makes loops on demand.
        ("mlserver==1.7.1", "tensorflow==2.21.0", "tf-keras==2.21.0", "transformers==4.41.2", "uvloop==0.21.0"),
        # It wants Optimum 1, which cannot be imported with this torch; its pipelines in torch do not use Optimum.
        alone=("mlserver-huggingface==1.7.1",),
    ),
    Peer("Triton's Python backend (PyTriton)", "pytriton", ("nvidia-pytriton==0.7.0",)),
    Peer("Olive", "olive", ("olive-ai==0.13.0",), kind="graph", precisions=("fp32", "int8")),
    Peer("Optimum", "optimum", (), kind="graph", precisions=("int8",)),
    Peer(
        "CTranslate2",
        "ctranslate2",
        ("ctranslate2==4.8.5",),
        kind="generator",
        precisions=("fp32", "int8"),
        tasks=("translation", "summarization"),
    ),
    Peer(
        "ONNX Runtime GenAI",
        "onnxruntime_genai",
        ("onnxruntime-genai==0.18.0", "transformers==5.24.0"),  # its builder imports models of transformers 5
        kind="generator",
        precisions=("fp32", "int4"),
        tasks=("text-generation",),
    ),
    Peer(
        "ONNX Runtime GenAI",
        "onnxruntime_genai_cuda",
        ("onnxruntime-genai-cuda==0.18.0", "transformers==5.24.0"),
        kind="generator",
        precisions=("fp16",),
        device="cuda",
        tasks=("text-generation",),
        program="onnxruntime_genai",
    ),
)


def check_environments(folder: Path | None) -> None:
    """Raise TuneportError unless the folder of all environments is there, or None, for a benchmark without peers."""
    if folder is not None and not folder.is_dir():
        found = "is no folder" if folder.exists() else "is not there"
        remedy = f"correct --peers, or run python -m tuneport.stages.benchmarks.peers.install {folder}"
        raise TuneportError(f"{folder}, the folder of the peers' environments, {found}", remedy)


def peers_of(kind: Kind) -> tuple[Peer, ...]:
    """Return the peers of a kind."""
    return tuple(peer for peer in PEERS if peer.kind == kind)
