"""The commands of the guides, as a reader runs them, on the tiny model."""

import os
import re
import sys
from pathlib import Path

BLOCK = re.compile(r"^```bash\n(.*?)^```", re.M | re.S)
WRAPPER = """#!{python}
import os, sys
words = ["{checkpoint}" if word == "minilm-l6" else word for word in sys.argv[1:]]
shorter = {{"finetune": ["--set", "max_length=32"], "export": ["--mixed-precision-minutes", "0.05"]}}
os.execv("{python}", ["{python}", "-m", "tuneport", *words, *shorter.get(words[0], [])])
"""


def reader_environment(folder: Path, checkpoint: Path) -> dict[str, str]:
    """Write a program `tuneport` that puts a checkpoint in the place of the embedded model; returns its environment."""
    program = folder / "bin" / "tuneport"
    program.parent.mkdir()
    program.write_text(WRAPPER.format(python=sys.executable, checkpoint=checkpoint))
    program.chmod(0o755)
    return {
        **os.environ,
        "PATH": f"{program.parent}:{os.environ['PATH']}",
        "BENTOML_HOME": str(folder / "bentoml"),
        "PYTHONWARNINGS": "ignore",
        "TUNEPORT_VARIANT": "fp32",
    }
