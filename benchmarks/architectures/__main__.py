"""Write docs/architectures.md.

python -m tuneport.stages.benchmarks.architectures [MODEL_TYPE …] > docs/architectures.md
"""

import argparse
import os
import sys
import textwrap
import warnings

import transformers

from .sweep import Outcome, try_architecture
from .tiny_models import MAX_LENGTH, encoder_architectures

MAX_REASON = 170
"""Characters."""
HEAD = """# Encoder architectures

`tuneport export` accepts any encoder that transformers can load for the task, converts it, and compares the graph with
a freshly loaded torch model at lengths from one word to the maximum. An architecture that cannot be exported faithfully
is refused with its name and the reason; it never becomes an artifact.

The table has every encoder architecture that transformers {version} has for sequence classification. Each row is a
random model of two layers that was exported to fp32 and asked for inputs of six lengths, from 3 to {length} tokens. Δ
is the largest difference of a logit, or as a share of it where it exceeds 1, between the artifact and a torch model
that was loaded anew for each input. `python -m tuneport.stages.benchmarks.architectures` writes this page; with model
types as arguments it tries only those, generative architectures with a classification head included.

- *Inputs* are those that the tokenizer's class emits and the model takes: T stands for token types, M for the attention
  mask; every model takes token ids.
- *Alone*: its outputs depend on padding, so that serving runs each input in a batch of its own.
- *Tokenizer*: whether the architecture's own tokenizer has a fast form in transformers, which an export needs; without
  one, a checkpoint works only if it has a `tokenizer.json`.

| architecture | exported | Δ | inputs | alone | tokenizer | why not |
|---|---|---:|---|---|---|---|
"""


def table_row(outcome: Outcome) -> str:
    """Return the line of the table for an architecture."""
    marks = {"attention_mask": "M", "token_type_ids": "T"}
    inputs = " ".join(mark for name, mark in marks.items() if name in outcome.inputs)
    difference = "" if outcome.max_difference is None else f"{outcome.max_difference:.0e}"
    state = "yes" if outcome.is_right else "no" if outcome.refusal else "**wrong**"
    cells = (
        outcome.model_type,
        state,
        difference,
        inputs,
        "yes" if outcome.single_rows else "",
        "fast" if outcome.has_fast_tokenizer else "slow",
        textwrap.shorten(outcome.refusal.replace("|", "/"), MAX_REASON, placeholder=" …"),
    )
    return f"| {' | '.join(cells)} |".replace("  ", " ")


def main() -> int:
    """Print the page; returns 1 if an artifact answers wrongly."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model_types", nargs="*")
    names = parser.parse_args().model_types or encoder_architectures()
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    transformers.logging.set_verbosity_error()
    warnings.simplefilter("ignore")
    sys.stdout.write(HEAD.format(version=transformers.__version__, length=MAX_LENGTH))
    are_right = True
    for name in names:
        sys.stderr.write(f"trying {name}\n")
        outcome = try_architecture(name)
        are_right &= outcome.is_right or bool(outcome.refusal)
        sys.stdout.write(f"{table_row(outcome)}\n")
        sys.stdout.flush()
    return 0 if are_right else 1


if __name__ == "__main__":
    sys.exit(main())
