"""onnxruntime-genai on a checkpoint of transformers, converted by its model builder; a process that generates text.

    ENVIRONMENT/bin/python onnxruntime_genai_generator.py CHECKPOINT PRECISION DEVICE THREADS

Speaks the protocol of `tuneport.stages.benchmarks.generator`.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime_genai as og


def main(checkpoint: str, precision: str, device: str, threads: int) -> None:
    """Convert the checkpoint, and generate until the input ends."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch, "model")
        arguments = ["-i", checkpoint, "-o", str(folder), "-p", precision, "-e", device, "-c", f"{scratch}/cache"]
        builder = [sys.executable, "-m", "onnxruntime_genai.models.builder", *arguments]
        if subprocess.run(builder, stdout=sys.stderr, check=False).returncode:
            sys.exit(1)  # its last words are the builder's
        pad, ends = configure(folder / "genai_config.json", threads)
        size = sum(file.stat().st_size for file in folder.glob("*.onnx*"))
        model = og.Model(str(folder))
    answer({"size": size})
    for line in sys.stdin:
        request = json.loads(line)
        if "scored" in request:
            answer(score(model, request["scored"], request["from"]))
        else:
            found = generate(model, request["ids"], request["max"], request["min"], pad)
            answer([until_end(ids, ends) for ids in found])


def configure(file: Path, threads: int) -> tuple[int, list[int]]:
    """Give the model as many threads as the other engines have; returns its padding token and its end tokens."""
    config = json.loads(file.read_text(encoding="utf-8"))
    settings = config["model"]
    settings["decoder"]["session_options"]["intra_op_num_threads"] = threads
    file.write_text(json.dumps(config), encoding="utf-8")
    ends = settings["eos_token_id"]
    return settings["pad_token_id"], ends if isinstance(ends, list) else [ends]


def generate(model: Any, prompts: list[list[int]], most: int, least: int, pad: int) -> list[list[int]]:
    """Generate greedily in one batch; what follows a row's end is padding.

    Prompts are padded on the right, where its attention expects it; it masks padding tokens by itself.
    """
    length = max(map(len, prompts))
    ids = np.array([[*each, *[pad] * (length - len(each))] for each in prompts], np.int32)
    params = og.GeneratorParams(model)
    params.set_search_options(batch_size=len(ids), max_length=length + most, min_length=length + least, do_sample=False)
    generator = og.Generator(model, params)
    generator.append_tokens(ids)
    while not generator.is_done():
        generator.generate_next_token()
    return [generator.get_sequence(i)[length:].tolist() for i in range(len(ids))]


def until_end(ids: list[int], ends: list[int]) -> list[int]:
    """Return the tokens before the first end token."""
    return ids[: next((i for i, token in enumerate(ids) if token in ends), len(ids))]


def score(model: Any, ids: list[int], first: int) -> dict[str, list[float]]:
    """Return for each token from `first` on -log p and whether it was the likeliest, given those before it."""
    params = og.GeneratorParams(model)
    params.set_search_options(batch_size=1, max_length=len(ids) + 1)
    generator = og.Generator(model, params)
    generator.append_tokens(np.array([ids], np.int32))
    logits = generator.get_output("logits")[0, first - 1 : -1].astype(np.float64)  # (tokens, vocabulary)
    targets = np.array(ids[first:])
    logits -= logits.max(-1, keepdims=True)
    losses = np.log(np.exp(logits).sum(-1)) - np.take_along_axis(logits, targets[:, None], -1)[:, 0]
    return {"losses": losses.tolist(), "hits": (logits.argmax(-1) == targets).astype(float).tolist()}


def answer(value: Any) -> None:
    """Write one line."""
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
