"""Trains a small generative model from data alone: its tokenizer and random weights first, then `tuneport finetune`.

    python -m tuneport.stages.benchmarks.from_scratch translation|text-generation --data DIR --out DIR [--minutes 3] \
        [--set num_train_epochs=6 …]

A Marian of 4.7 million parameters learns from the columns `source` and `target`, a Llama of 32 million from `text`.
Trains for two epochs or, with `--minutes`, as many steps as these are expected to take. The answers of a model that has
hardly been trained are near ties, on which two engines need not agree: give a peer of the engine benchmark a model that
has had an epoch at least. Prints metrics (BLEU and chrF as shares from 0 to 1) and times as one JSON line.
"""

import argparse
import json
import sys
import time
from pathlib import Path

from tuneport.errors import TuneportError
from tuneport.stages.finetune.config import load_config
from tuneport.stages.finetune.train import finetune

from .llama import LLAMA
from .marian import MARIAN
from .recipe import steps_within

RECIPES = {recipe.task: recipe for recipe in (MARIAN, LLAMA)}


def main() -> None:
    """Build the base model, train it, and print metrics and times."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("task", choices=sorted(RECIPES))
    parser.add_argument("--data", required=True, help="folder with train, validation and test")
    parser.add_argument("--out", type=Path, required=True, help="run folder; the base model is written beside it")
    parser.add_argument("--minutes", type=float, help="of training, about; by default two epochs")
    parser.add_argument("--set", dest="settings", nargs="*", default=[], help="fine-tuning settings, key=value")
    options = parser.parse_args()
    started = time.perf_counter()
    recipe = RECIPES[options.task]
    try:
        base = options.out.with_name(f"{options.out.name}-base")
        recipe.save_base(base, recipe.texts(options.data))
        settings = [*recipe.settings, f"per_device_train_batch_size={recipe.batch_rows}"]
        if options.minutes:
            steps = steps_within(60 * options.minutes, recipe, base, recipe.texts(options.data))
            settings.append(f"max_steps={steps}")
        flags = {"task": recipe.task, "model": str(base), "data": options.data}
        run = finetune(load_config(settings=[*settings, *options.settings], flags=flags), options.out, overwrite=True)
    except TuneportError as error:
        sys.exit(str(error))
    seconds = {"train_s": run.train_seconds, "total_s": round(time.perf_counter() - started, 1)}
    sys.stdout.write(json.dumps({"metrics": run.metrics, **seconds, "precision": run.training.precision}) + "\n")


if __name__ == "__main__":
    main()
