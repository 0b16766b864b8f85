"""infinity's own server with its torch engine, as its documentation shows.

    ENVIRONMENT/bin/python infinity_server.py PORT

Environment variables: `CHECKPOINT` and `DEVICE`, as for `bento_torch.py`. `DTYPE` and the length are infinity's choice.
"""

import os
import sys
from pathlib import Path


def main() -> None:
    """Become infinity's server."""
    program = str(Path(sys.executable).with_name("infinity_emb"))
    arguments = ["v2", "--model-id", os.environ["CHECKPOINT"], "--served-model-name", "model", "--engine", "torch"]
    arguments += ["--device", os.environ.get("DEVICE", "cpu"), "--host", "127.0.0.1", "--port", sys.argv[1]]
    os.execv(program, [program, *arguments, "--no-bettertransformer"])


if __name__ == "__main__":
    main()
