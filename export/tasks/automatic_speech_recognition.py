"""Export speech recognition: the metric is the word error rate; golden cases are synthetic sounds and recordings."""

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from tuneport.metrics.text import word_error_rate

from ..checkpoint import Checkpoint
from .generative import TargetTextTask

REAL_CASES = 3
"""Recordings of the data among the golden cases, the shortest, because the artifact stores them."""


class Task(TargetTextTask):
    """Rows of `audio`, a path, and `target`."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        """Keep the checkpoint; paths are relative to the working directory until `set_data_source`."""
        super().__init__(checkpoint)
        self._folder = Path()

    def set_data_source(self, source: str) -> None:
        """Resolve relative paths against the data's folder."""
        self._folder = self.data_folder(source)

    def read_input(self, row: dict[str, Any]) -> Any:
        """Return a recording's bytes, as in an upload."""
        audio = super().read_input(row)
        try:
            return {"audio": (self._folder / audio).read_bytes()}
        except OSError as error:
            raise ValueError(f"audio {audio!r} cannot be read ({error.strerror})") from error

    def golden_inputs(self, inputs: Sequence[Any]) -> list[tuple[str, Any]] | None:
        """Choose tones, silence, noise and recordings of the data, each with the name of its batch."""
        rate, seconds = self.checkpoint.extractor.sampling_rate, self.checkpoint.extractor.chunk_length
        generator = np.random.default_rng(7)
        tone = np.sin(2 * np.pi * 440 * np.arange(rate // 2) / rate)
        cases = [
            ("tone", tone, rate),
            ("awkward", np.zeros(rate // 4), rate),
            ("awkward", np.zeros(1), rate),
            ("awkward", generator.normal(0, 0.1, rate // 4), rate),
            ("awkward", np.clip(9 * tone[: rate // 4], -1, 1), rate),
            ("low-rate-stereo", np.stack([tone[::2], 0 * tone[::2]], axis=1), rate // 2),
            ("too-long", np.tile(tone[::8] / 2, 2 * seconds + 1), rate // 8),
        ]
        synthetic = [(batch, {"audio": _wav(samples, own_rate)}) for batch, samples, own_rate in cases]
        shortest = sorted(inputs, key=lambda value: len(value["audio"]))[:REAL_CASES]
        return synthetic + [("mixed", {"audio": base64.b64encode(each["audio"]).decode()}) for each in shortest]

    def torch_inputs(self, parsed_inputs: Sequence[Any]) -> dict[str, Any]:
        """Return spectrograms, float32 (inputs, mel bands, frames)."""
        extractor = self.checkpoint.extractor
        return {
            "input_features": extractor(
                list(parsed_inputs), sampling_rate=extractor.sampling_rate, return_tensors="pt"
            )["input_features"]
        }

    def score_texts(self, texts: list[str], targets: list[str]) -> float:
        """Return the word error rate, which may exceed 1."""
        return word_error_rate(texts, targets)


def _wav(samples: Any, rate: int) -> str:
    """Encode samples as a 16-bit WAV file in base64."""
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format="WAV", subtype="PCM_16")
    return base64.b64encode(file.getvalue()).decode()
