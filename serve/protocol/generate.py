"""Generate the messages of open_inference.proto: `python -m serve.protocol.generate`, with the dev extra."""

from importlib import resources
from pathlib import Path

HERE = Path(__file__).parent


def generate(out: Path) -> None:
    """Write open_inference_pb2.py below `out`, in the folder of its package."""
    from grpc_tools import protoc

    root = HERE.parents[1]
    well_known = resources.files("grpc_tools") / "_proto"
    proto = (HERE / "open_inference.proto").relative_to(root)
    arguments = ["protoc", f"-I{root}", f"-I{well_known}", f"--python_out={out}", str(root / proto)]
    if protoc.main(arguments) != 0:
        raise SystemExit("protoc failed")


if __name__ == "__main__":
    generate(HERE.parents[1])
