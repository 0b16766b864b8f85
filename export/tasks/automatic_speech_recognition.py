"""Speech recognition at the gate: the word error rate, over words as they are written; golden cases made of tones."""

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import jiwer
import numpy as np
import soundfile

from export.checkpoint import Checkpoint
from export.tasks.generative import WritingTask

REAL_CASES = 3
"""Recordings of the data among the golden cases, the shortest: they are kept in the artifact."""


class Task(WritingTask):
    """Rows of `audio`, a path, and `target`."""

    auto_model: ClassVar[str] = "AutoModelForSpeechSeq2Seq"
    metric: ClassVar[str] = "wer"
    lower_is_better: ClassVar[bool] = True
    most_rows: ClassVar[int] = 100

    def __init__(self, checkpoint: Checkpoint) -> None:
        """Note where paths begin once the data is known."""
        super().__init__(checkpoint)
        self.columns = ("audio", "target")
        self._folder = Path()

    def locate(self, source: str) -> None:
        """Let relative paths begin beside the data."""
        path = Path(source)
        self._folder = path if path.is_dir() else path.parent

    def read(self, row: dict[str, Any]) -> tuple[Any, Any]:
        """Return a recording as an upload, and its transcript."""
        audio, target = super().read(row)
        try:
            return {"audio": (self._folder / audio).read_bytes()}, target
        except OSError as error:
            raise ValueError(f"audio {audio!r} cannot be read ({error.strerror})") from error

    def golden_inputs(self, inputs: Sequence[Any]) -> list[tuple[str, Any]]:
        """Choose golden cases, each with the batch that it runs in: tones, silence, noise, some of the data."""
        rate, seconds = self.checkpoint.extractor.sampling_rate, self.checkpoint.extractor.chunk_length
        chance = np.random.default_rng(7)
        tone = np.sin(2 * np.pi * 440 * np.arange(rate // 2) / rate)
        cases = [
            ("tone", tone, rate),
            ("awkward", np.zeros(rate // 4), rate),
            ("awkward", np.zeros(1), rate),
            ("awkward", chance.normal(0, 0.1, rate // 4), rate),
            ("awkward", np.clip(9 * tone[: rate // 4], -1, 1), rate),
            ("low-rate-stereo", np.stack([tone[::2], 0 * tone[::2]], axis=1), rate // 2),
            ("too-long", np.tile(tone[::8] / 2, 2 * seconds + 1), rate // 8),
        ]
        made = [(batch, {"audio": _wav(samples, own_rate)}) for batch, samples, own_rate in cases]
        shortest = sorted(inputs, key=lambda each: len(each["audio"]))[:REAL_CASES]
        return made + [("mixed", {"audio": base64.b64encode(each["audio"]).decode()}) for each in shortest]

    def for_torch(self, given: Sequence[Any]) -> dict[str, Any]:
        """Make spectrograms as transformers does."""
        extractor = self.checkpoint.extractor
        return {
            "input_features": extractor(list(given), sampling_rate=extractor.sampling_rate, return_tensors="pt")[
                "input_features"
            ]
        }

    def score_texts(self, texts: list[str], targets: list[str]) -> float:
        """Return the word error rate, which may exceed 1."""
        return float(jiwer.wer(targets, texts))


def _wav(samples: Any, rate: int) -> str:
    """Return a WAV file of 16 bits in base64."""
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format="WAV", subtype="PCM_16")
    return base64.b64encode(file.getvalue()).decode()
