"""`tuneport finetune`."""

import os
import textwrap
from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

from tuneport.cli.fields import help_text, option_type
from tuneport.cli.options import Out, Overwrite, Resume, SettingsFile, SetValues, with_flags
from tuneport.cli.progress import print_warning
from tuneport.cli.signals import explain_resume
from tuneport.errors import TuneportError
from tuneport.extras import require_extras
from tuneport.stages.finetune.config import FinetuneConfig
from tuneport.tasks import all_tasks

FLAGS = ("task", "model", "data", "columns", "splits", "trust_remote_code")
"""Settings that are options of their own; --set and --config take these and all others."""
HELP_WIDTH = 78
"""Columns of the list of settings, which click leaves as it is."""


def finetune_help() -> str:
    """Write the command's help: the columns of every task, and every setting."""
    try:
        specs = all_tasks().values()
        width = max(len(spec.name) for spec in specs)
        tasks = "\n".join(f"{spec.name:<{width}}  {spec.column_help}" for spec in specs)
    except TuneportError as error:  # of a package of the user; other commands need no tasks
        tasks = str(error)
    settings = "\n".join(_settings())
    return f"""Fine-tune a model on labelled data and write a run folder.

Data is JSONL, JSON, CSV, TSV, CoNLL text or Parquet. Tasks and their columns:

\b
{tasks}

Settings come from --config, then --set, then the options. A list is written --set 'report_to=["wandb"]'.

Example: tuneport finetune --task text-classification --model minilm-l6 --data reviews/ --out runs/reviews
--set num_train_epochs=2 --set strategy=lora

Settings for --set and --config:

\b
{settings}
"""


def _settings() -> Iterator[str]:
    """Yield the lines that list the settings which are no options, with what they mean."""
    for name, field in FinetuneConfig.model_fields.items():
        if name not in FLAGS:
            kind = option_type(field.annotation)
            choices = f" ({', '.join(get_args(kind))})" if get_origin(kind) is Literal else ""
            yield from textwrap.wrap(name + choices, HELP_WIDTH, subsequent_indent="    ")
            yield from textwrap.wrap(
                help_text(field), HELP_WIDTH, initial_indent="    ", subsequent_indent="    ", break_on_hyphens=False
            )


@with_flags(FinetuneConfig, FLAGS)
def finetune(
    flags: dict[str, Any],
    out: Out,
    config: SettingsFile = None,
    set_: SetValues = None,
    overwrite: Overwrite = False,
    resume: Resume = False,
) -> None:
    """Fine-tune a model on labelled data and write a run folder."""
    require_extras("fine-tuning", "train")
    from tuneport.stages.finetune.config import load_config
    from tuneport.stages.finetune.train import finetune as train

    with explain_resume(out):
        run = train(load_config(config, set_ or [], flags), out, overwrite=overwrite, resume=resume, warn=print_warning)
    if os.environ.get("RANK", "0") != "0":  # one of several processes says it
        return
    print(f"trained on {run.training.describe()}")
    if run.pseudo_labelled:
        print(f"pseudo-labels: {run.pseudo_labelled.joined} of {run.pseudo_labelled.rows} rows joined train")
    for split, metrics in run.metrics.items():
        print(f"{split}: " + ", ".join(f"{name} {value:.4f}" for name, value in metrics.items()))
    if run.config["strategy"] == "prefix":
        print(f"wrote {out}; it cannot be exported: peft.PeftModel.from_pretrained loads its checkpoint onto the model")
    else:
        print(f"wrote {out}; next: tuneport export {out} --out artifacts/{out.name}")
