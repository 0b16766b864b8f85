"""Fine-tuning in a process of its own that is really killed (kill -9), at a step that the test names."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from . import ROOT

CHILD = """
import os, signal, sys
from pathlib import Path
from transformers import TrainerCallback
from tuneport.stages.finetune import setup
from tuneport.stages.finetune.config import load_config
from tuneport.stages.finetune.train import finetune

settings, out, step, folder = sys.argv[1:]

class Kill(TrainerCallback):
    def on_step_end(self, args, state, control, **_):
        if state.global_step == int(step) and Path(args.output_dir).parent.name == folder:
            os.kill(os.getpid(), signal.SIGKILL)

callbacks = setup._callbacks
setup._callbacks = lambda config: [*callbacks(config), Kill()]
finetune(load_config(Path(settings)), Path(out))
"""
"""Arguments: settings.toml, the run folder, the step, and the name of the folder whose training is killed."""


def run_until_killed(settings: Path, out: Path, *, at: int, folder: str = "", processes: int = 1) -> None:
    """Fine-tune with the settings of a TOML file until the step `at`, after which every process kills itself.

    `folder` is the name of the folder whose training is meant, where a run has two: `out` unless it is given.
    """
    code = out.with_suffix(".py")
    code.write_text(CHILD)
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"] if processes > 1 else []
    command = [sys.executable, *launcher, str(code), str(settings), str(out), str(at), folder or out.name]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == (-signal.SIGKILL if processes == 1 else 1), done.stderr[-2000:]
    assert not (out / "run.json").exists()
