"""`tuneport search`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from tuneport.cli.finetune import FLAGS
from tuneport.cli.options import Out, Overwrite, Resume, SettingsFile, SetValues, with_flags
from tuneport.cli.progress import print_warning
from tuneport.cli.signals import explain_resume
from tuneport.extras import require_extras
from tuneport.stages.finetune.config import FinetuneConfig

Space = Annotated[Path, typer.Option(help="TOML file: learning_rate = {low = 1e-5, high = 5e-4, log = true}")]
Trials = Annotated[int, typer.Option(min=1, help="Trials in all, those of an interrupted search included.")]


@with_flags(FinetuneConfig, FLAGS)
def search(
    flags: dict[str, Any],
    space: Space,
    out: Out,
    trials: Trials = 10,
    config: SettingsFile = None,
    set_: SetValues = None,
    overwrite: Overwrite = False,
    resume: Resume = False,
) -> None:
    """Search hyper-parameters with Optuna, and write the table of trials and the best settings as TOML.

    The space has a line for each setting to vary: learning_rate = {low = 1e-5, high = 5e-4, log = true} or
    per_device_train_batch_size = {choices = [8, 16, 32]}.

    Example: tuneport search --space space.toml --task text-classification --model minilm-l6 --data reviews/
    --out runs/search --trials 20
    """
    require_extras("the search", "train")
    from tuneport.stages.finetune.config import load_config
    from tuneport.stages.finetune.search.search import BEST
    from tuneport.stages.finetune.search.search import search as run_search
    from tuneport.stages.finetune.search.space import read_space

    settings, ranges = load_config(config, set_ or [], flags), read_space(space)
    with explain_resume(out):
        best = run_search(settings, ranges, out, trials=trials, overwrite=overwrite, resume=resume, warn=print_warning)
    print("best: " + ", ".join(f"{name} {value}" for name, value in best.items()))
    print(f"wrote {out}; next: tuneport finetune --config {out / BEST} --out runs/best")
