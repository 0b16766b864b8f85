"""Generate open_inference_pb2.py: `python -m tuneport.stages.serve.grpc.generate`, with the dev extra."""

import shutil
import tempfile
from importlib import resources
from pathlib import Path

HERE = Path(__file__).parent
IMPORT_PATH = "tuneport/stages/serve/grpc"
"""Folder under which the file is registered in protobuf's pool; the pool is shared by all packages of a process."""
GENERATED = "open_inference_pb2.py"


def generate(out: Path) -> Path:
    """Write open_inference_pb2.py into the folder `out`; returns its path."""
    from grpc_tools import protoc

    well_known = resources.files("grpc_tools") / "_proto"
    with tempfile.TemporaryDirectory() as folder:
        arguments = [f"-I{IMPORT_PATH}={HERE}", f"-I{well_known}", f"--python_out={folder}"]
        if protoc.main(["protoc", *arguments, str(HERE / "open_inference.proto")]) != 0:
            raise SystemExit("protoc failed")
        return Path(shutil.copy(Path(folder, IMPORT_PATH, GENERATED), out / GENERATED))


if __name__ == "__main__":
    generate(HERE)
