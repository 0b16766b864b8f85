"""CTranslate2 on a checkpoint of transformers, converted as its documentation shows; a process that translates.

    ENVIRONMENT/bin/python ctranslate2_generator.py CHECKPOINT PRECISION DEVICE THREADS

Speaks the protocol of `tuneport.stages.benchmarks.generator`; it scores no answers, which translation does not need.
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import ctranslate2
from ctranslate2.converters import TransformersConverter
from transformers import AutoTokenizer

COMPUTE_TYPES = {"fp32": "float32", "int8": "int8"}


def main(checkpoint: str, precision: str, device: str, threads: int) -> None:
    """Convert the checkpoint, and translate until the input ends."""
    tokenizer: Any = AutoTokenizer.from_pretrained(checkpoint)
    compute_type = COMPUTE_TYPES[precision]
    with tempfile.TemporaryDirectory() as scratch:
        folder = TransformersConverter(checkpoint).convert(f"{scratch}/model", quantization=compute_type)
        size = sum(file.stat().st_size for file in Path(folder).iterdir())
        translator = ctranslate2.Translator(folder, device=device, compute_type=compute_type, intra_threads=threads)
    answer({"size": size})
    for line in sys.stdin:
        request = json.loads(line)
        found = translator.translate_batch(
            [tokenizer.convert_ids_to_tokens(ids) for ids in request["ids"]],
            beam_size=1,
            max_decoding_length=request["max"],
            min_decoding_length=request["min"],
            max_input_length=0,
        )
        answer([tokenizer.convert_tokens_to_ids(each.hypotheses[0]) for each in found])


def answer(value: Any) -> None:
    """Write one line."""
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
