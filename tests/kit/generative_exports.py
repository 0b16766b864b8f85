"""Generative models of every family, trained on a few rows and exported: what the tests of the export read."""

import base64
import functools
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import soundfile

from tuneport.runtime.predictor import Predictor
from tuneport.schema.artifact import Manifest
from tuneport.stages.export.config import ExportConfig
from tuneport.stages.export.pipeline import export
from tuneport.stages.finetune.config import load_config
from tuneport.stages.finetune.train import finetune

from .data import write_splits
from .exports import quick_exports
from .generative import build_causal, build_seq2seq, build_whisper
from .runs import quick_reports
from .texts import pairs
from .tokenizers import CHAT_TEMPLATE, byte_tokenizer

TEXTS = ("eins zwei drei", "", "neun", "zehn unknown Größe 🙂", "vier " * 60)
RECORDINGS = [0, 1, 7]
"""Numbers of those that are inputs."""
QUICK = {
    "eval_strategy": "no", "save_strategy": "no", "report_to": [], "bf16": False, "max_steps": 20,
    "learning_rate": 5e-3, "per_device_train_batch_size": 8,
}  # fmt: skip


@dataclass
class Exported:
    """A run, the artifact of it, and inputs for it."""

    family: str
    run: Path
    artifact: Path
    manifest: Manifest
    inputs: list[Any]

    @property
    def checkpoint(self) -> Path:
        return self.run / "checkpoint"

    @property
    def data(self) -> Path:
        return self.run.parent / "data"

    @functools.cached_property
    def predictor(self) -> Predictor:
        return Predictor(self.artifact, "fp32")


Export = Callable[[str], Exported]


def train_and_export(family: str, folder: Path) -> Exported:
    """Train a family and export it; T5 and Llama with every variant."""
    prepare_data = {"gpt2": texts_data, "llama": chat_data, "whisper": speech_data}.get(family, pairs_data)
    task, base, data, sizes, inputs = prepare_data(family, folder)
    run = folder / "run"
    with quick_reports():
        finetune(load_config(flags={**QUICK, **sizes, "task": task, "model": str(base), "data": str(data)}), run)
    variants = () if family in ("t5", "llama") else ("fp32",)
    config = ExportConfig(checkpoint=run, name=family, max_drop=0.1, variants=variants)
    with quick_exports():
        manifest = export(config, folder / "artifact")
    return Exported(family, run, folder / "artifact", manifest, inputs)


def pairs_data(family: str, folder: Path) -> tuple[str, Path, Path, dict[str, Any], list[Any]]:
    rows = pairs(16)
    data = write_splits(folder / "data", train=rows, validation=rows[:8], test=rows[:8])
    sizes = {"max_length": 32, "max_target_length": 16, "source_prefix": "say it : " if family == "t5" else ""}
    task = "summarization" if family == "bart" else "translation"
    return task, build_seq2seq(folder / "base", family), data, sizes, list(TEXTS)


def texts_data(family: str, folder: Path) -> tuple[str, Path, Path, dict[str, Any], list[Any]]:
    rows = [{"text": f"one two three four {word}"} for word in ("one", "two", "five", "six") * 4]
    base = build_causal(folder / "base", family, byte_tokenizer([row["text"] for row in rows]))
    return "text-generation", base, same_splits(folder / "data", rows), {"max_length": 64}, list(TEXTS)


def chat_data(family: str, folder: Path) -> tuple[str, Path, Path, dict[str, Any], list[Any]]:
    rows = [
        {"messages": [{"role": "user", "content": f"say {word}"}, {"role": "assistant", "content": f"it is {word}"}]}
        for word in ("one", "two", "five", "six") * 4
    ]
    tokenizer = byte_tokenizer([json.dumps(row) for row in rows])
    tokenizer.chat_template = CHAT_TEMPLATE
    base = build_causal(folder / "base", family, tokenizer)
    inputs = [{"messages": row["messages"][:1]} for row in rows[:3]] + ["it is"]
    return "text-generation", base, same_splits(folder / "data", rows), {"max_length": 64}, inputs


def speech_data(family: str, folder: Path) -> tuple[str, Path, Path, dict[str, Any], list[Any]]:
    rows = []
    (folder / "data").mkdir()
    for i, (word, hertz) in enumerate([("low", 300), ("high", 4000)] * 4):
        rate = 16_000 if i % 2 else 44_100
        wave = 0.5 * np.sin(2 * np.pi * hertz * np.arange(int(rate * (0.2 + i / 10))) / rate)
        soundfile.write(folder / "data" / f"{i}.wav", wave, rate)
        rows.append({"audio": f"{i}.wav", "target": f"{word} tone"})
    base = build_whisper(folder / "base", ["low", "high"])
    data = same_splits(folder / "data", rows)
    inputs = [{"audio": base64.b64encode((data / f"{i}.wav").read_bytes()).decode()} for i in RECORDINGS]
    return "automatic-speech-recognition", base, data, {"max_target_length": 12}, inputs


def same_splits(folder: Path, rows: list[Any]) -> Path:
    return write_splits(folder, train=rows, validation=rows, test=rows)


def operators(file: Path) -> list[str]:
    """List the operators of a graph and of the graphs within it."""
    found = []

    def collect(graph: Any) -> None:
        for node in graph.node:
            found.append(node.op_type)
            for attribute in node.attribute:
                if attribute.type == onnx.AttributeProto.GRAPH:
                    collect(attribute.g)

    collect(onnx.load(str(file)).graph)
    return found
