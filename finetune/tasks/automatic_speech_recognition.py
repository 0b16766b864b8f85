"""Automatic speech recognition with Whisper: `audio`, a short WAV or FLAC file, and its transcript in `target`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from datasets import Dataset
from tqdm import tqdm
from transformers import AutoModelForSpeechSeq2Seq, AutoProcessor, PreTrainedModel

from tuneport.data.reader import Data
from tuneport.data.rows import Problems, numbered_rows, preview
from tuneport.errors import CheckpointError, TuneportError
from tuneport.metrics.text import character_error_rate, word_error_rate

from ..audio import find_audio_problem, read_audio
from ..config import FinetuneConfig
from ..evaluate import Evaluation, worst_mistakes
from ..generation import configure_generation, decode_texts
from ..loading import as_checkpoint_error, load_pretrained
from ..losses import IGNORED
from ..model_limits import check_sizes
from .base import FinetuneTask


class Task(FinetuneTask):
    """Rows of `audio` and `target`. Error rates are of the texts as they are: capitals and punctuation count."""

    generates: ClassVar[bool] = True

    def __init__(self, data: Data, config: FinetuneConfig) -> None:
        """Check that each file can be read and fits into Whisper's window, and that it has a transcript."""
        super().__init__(data, config)
        self.folder = _data_folder(data.source.source)
        problems = Problems("correct these rows; paths are absolute or relative to the data file's folder")
        for split, rows in data.splits.items():
            for number, row in tqdm(numbered_rows(rows), desc="check audio", total=len(rows), disable=None):
                place = f"{data.files[split]} row {number}"
                if problem := find_audio_problem(row["audio"], self.folder):
                    problems.add(place, problem)
                if not isinstance(row["target"], str) or not row["target"].strip():
                    problems.add(place, f"target is {preview(row['target'])}")
        problems.raise_if_any()

    def load_processor(self, source: str) -> Any:
        """Load the feature extractor with its tokenizer, set to the language of the settings."""
        with as_checkpoint_error(source):
            processor = AutoProcessor.from_pretrained(source, trust_remote_code=self.config.trust_remote_code)
        if not hasattr(processor, "feature_extractor"):
            raise CheckpointError(f"{source} has no feature extractor for audio", "give a Whisper model")
        if self.config.target_language:
            with as_checkpoint_error(source):
                processor.tokenizer.set_prefix_tokens(language=self.config.target_language, task="transcribe")
        self.processor = processor
        return processor

    def load_model(self, source: str) -> PreTrainedModel:
        """Load the model, configured to transcribe in the language of the settings."""
        model = load_pretrained(AutoModelForSpeechSeq2Seq, source, self.config)
        if model.main_input_name != "input_features":
            raise CheckpointError(f"{source} ({type(model).__name__}) does not take spectrograms", "give Whisper")
        tokenizer = self.load_processor(source).tokenizer
        check_sizes(model, tokenizer, source, max_target_length=self.config.max_target_length)
        configure_generation(model, tokenizer, source, self.config)
        # The older setting of language and task, which contradicts the two below.
        model.generation_config.forced_decoder_ids = None
        if self.config.target_language:
            if not getattr(model.generation_config, "lang_to_id", None):
                raise TuneportError(f"{source} has no languages to choose from", "leave out target_language")
            model.generation_config.language = self.config.target_language
            model.generation_config.task = "transcribe"
        return model

    def encode(self, rows: Dataset, processor: Any, *, train: bool) -> Dataset:
        """Tokenize transcripts; `input_features` is the file's path, and the collator reads the file.

        The features of thirty seconds are a megabyte, too much to keep for each row.
        """
        folder, limit, end = self.folder, self.config.max_target_length, processor.tokenizer.eos_token_id

        def encode_batch(batch: dict[str, list[str]]) -> dict[str, Any]:
            targets = processor.tokenizer(batch["target"])["input_ids"]
            return {
                "input_features": [str(folder / audio) for audio in batch["audio"]],
                "labels": [[*ids[: limit - 1], end] if len(ids) > limit else ids for ids in targets],
                "length": [min(len(ids), limit) for ids in targets],
                "truncated": [len(ids) > limit for ids in targets],
            }

        return rows.map(encode_batch, batched=True, remove_columns=rows.column_names, desc="tokenize")

    def collator(self, processor: Any, model: PreTrainedModel) -> Any:
        """Read the files and pad a batch."""
        return SpeechCollator(processor, model.config.decoder_start_token_id)

    def evaluate(self, outputs: Any, targets: Any, rows: Dataset, features: Dataset) -> Evaluation:
        """Score generated token ids, int (rows, tokens); a mistake's loss is its row's word error rate."""
        predicted = decode_texts(outputs, self.processor.tokenizer)
        expected = [text.strip() for text in rows["target"]]
        metrics = {"wer": word_error_rate(predicted, expected), "cer": character_error_rate(predicted, expected)}
        rates = np.array([word_error_rate([text], [right]) for text, right in zip(predicted, expected, strict=True)])
        return Evaluation(metrics=metrics, mistakes=worst_mistakes(rows["audio"], expected, predicted, rates))


class SpeechCollator:
    """Reads recordings as log-mel spectrograms, and pads labels with `IGNORED`."""

    def __init__(self, processor: Any, decoder_start: int) -> None:
        """`decoder_start` is the token that the model puts before the labels."""
        self.extractor = processor.feature_extractor
        self.decoder_start = decoder_start

    def __call__(self, examples: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Return `input_features`, float32 (rows, mels, frames), and `labels`, int64 (rows, tokens)."""
        rate = self.extractor.sampling_rate
        recordings = [read_audio(Path(example["input_features"]), rate) for example in examples]
        features = self.extractor(recordings, sampling_rate=rate, return_tensors="pt")["input_features"]
        labels = [ids[1:] if ids[0] == self.decoder_start else ids for ids in (row["labels"] for row in examples)]
        longest = max(len(ids) for ids in labels)
        padded = torch.tensor([[*ids, *[IGNORED] * (longest - len(ids))] for ids in labels])
        return {"input_features": features, "labels": padded}


def _data_folder(source: str) -> Path:
    """Return the folder that relative paths of a data source count from."""
    path = Path(source)
    return path if path.is_dir() else path.parent if path.is_file() else Path.cwd()
