"""Run every command that a document shows in ```bash blocks, in order, as a user would after `make demo`.

Lines that begin with `make` are left out: .ci/run has run them already.
"""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

root = Path(__file__).parents[1]
blocks = re.findall(r"^```bash\n(.*?)^```", Path(sys.argv[1]).read_text(encoding="utf-8"), re.M | re.S)
environment = {**os.environ, "PATH": f"{root / '.venv' / 'bin'}:{os.environ['PATH']}"}
for block in blocks:
    script = "".join(line for line in block.splitlines(keepends=True) if not line.startswith("make "))
    sys.stdout.write(f"--- README\n{script}")
    sys.stdout.flush()
    # -m: job control, so that `kill %1` works as it does at a prompt.
    began = time.monotonic()
    subprocess.run(["bash", "-emc", script], cwd=root, env=environment, check=True, timeout=900)
    sys.stdout.write(f"--- README: {time.monotonic() - began:.0f} s\n")
