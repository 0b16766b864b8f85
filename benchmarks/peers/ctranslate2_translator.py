"""CTranslate2 on a checkpoint of transformers, converted as its documentation shows; a process that translates.

    ENVIRONMENT/bin/python ctranslate2_translator.py CHECKPOINT COMPUTE_TYPE THREADS

Writes a line once the model is open. Then reads a JSON object a line, `{"ids": [[…]], "max": n, "min": n}`: token ids
of texts, and how many tokens to generate; and writes a list of the generated ids of each text, without the end token.
"""

import json
import sys
import tempfile
from typing import Any

import ctranslate2
from ctranslate2.converters import TransformersConverter
from transformers import AutoTokenizer


def main(checkpoint: str, compute_type: str, threads: int) -> None:
    """Convert the checkpoint, and translate until the input ends."""
    tokenizer: Any = AutoTokenizer.from_pretrained(checkpoint)
    with tempfile.TemporaryDirectory() as scratch:
        folder = TransformersConverter(checkpoint).convert(f"{scratch}/model")
        translator = ctranslate2.Translator(folder, device="cpu", compute_type=compute_type, intra_threads=threads)
    sys.stdout.write(json.dumps("ready") + "\n")
    sys.stdout.flush()
    for line in sys.stdin:
        request = json.loads(line)
        found = translator.translate_batch(
            [tokenizer.convert_ids_to_tokens(ids) for ids in request["ids"]],
            beam_size=1,
            max_decoding_length=request["max"],
            min_decoding_length=request["min"],
            max_input_length=0,
        )
        ids = [tokenizer.convert_tokens_to_ids(each.hypotheses[0]) for each in found]
        sys.stdout.write(json.dumps(ids) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
