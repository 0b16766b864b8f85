"""Automatic speech recognition: `audio`, a short WAV or FLAC file, → its transcript in `target`, by Whisper."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import jiwer
import numpy as np
import torch
from datasets import Dataset
from tqdm import tqdm
from transformers import AutoModelForSpeechSeq2Seq, AutoProcessor, PreTrainedModel

from export.files import CheckpointError, TuneportError
from finetune.audio import check_audio, read_audio
from finetune.config import FinetuneConfig, refuse_unused
from finetune.data import Data, Problems, rows_of, short
from finetune.evaluate import Evaluation, mistakes_of
from finetune.generation import prepare_to_write, texts_of
from finetune.loading import load_pretrained, one_clear_line
from finetune.sizes import check_sizes


class Task:
    """Checks, encodes and scores rows of `audio` and `target`.

    Error rates are of the texts as they are: capitals and punctuation count.
    """

    required: ClassVar[tuple[str, ...]] = ("audio", "target")
    optional: ClassVar[tuple[str, ...]] = ()
    best_metric: ClassVar[str] = "wer"
    greater_is_better: ClassVar[bool] = False
    generates: ClassVar[bool] = True
    labels: tuple[str, ...] = ()

    def __init__(self, data: Data, config: FinetuneConfig) -> None:
        """Check that each file can be read and lasts no longer than Whisper hears, and that it has a transcript."""
        refuse_unused(config, by=("task",))
        self.config = config
        self.folder = _folder(data.source.source)
        problems = Problems("correct these rows; paths are absolute or count from the data file's folder")
        for split, rows in data.splits.items():
            for number, row in tqdm(rows_of(rows), desc="check audio", total=len(rows), disable=None):
                place = f"{data.files[split]} row {number}"
                if problem := check_audio(row["audio"], self.folder):
                    problems.add(place, problem)
                if not isinstance(row["target"], str) or not row["target"].strip():
                    problems.add(place, f"target is {short(row['target'])}")
        problems.raise_if_any()

    def load_processor(self, source: str) -> Any:
        """Load the feature extractor with its tokenizer, set to the settings' language."""
        with one_clear_line(source):
            processor = AutoProcessor.from_pretrained(source, trust_remote_code=self.config.trust_remote_code)
        if not hasattr(processor, "feature_extractor"):
            raise CheckpointError(f"{source} has no feature extractor for sound", "give a Whisper model")
        if self.config.target_language:
            with one_clear_line(source):
                processor.tokenizer.set_prefix_tokens(language=self.config.target_language, task="transcribe")
        self.processor = processor
        return processor

    def load_model(self, source: str) -> PreTrainedModel:
        """Load the model, ready to write transcripts in the settings' language."""
        model = load_pretrained(AutoModelForSpeechSeq2Seq, source, self.config)
        if model.main_input_name != "input_features":
            raise CheckpointError(f"{source} ({type(model).__name__}) does not hear spectrograms", "give Whisper")
        tokenizer = self.load_processor(source).tokenizer
        check_sizes(model, tokenizer, source, max_target_length=self.config.max_target_length)
        prepare_to_write(model, tokenizer, source, self.config)
        # What used to fix language and task; it contradicts the two settings below.
        model.generation_config.forced_decoder_ids = None
        if self.config.target_language:
            if not getattr(model.generation_config, "lang_to_id", None):
                raise TuneportError(f"{source} knows no languages to choose from", "leave out target_language")
            model.generation_config.language = self.config.target_language
            model.generation_config.task = "transcribe"
        return model

    def encode(self, rows: Dataset, processor: Any, *, train: bool) -> Dataset:
        """Tokenize transcripts; `input_features` holds the file's path, which the collator reads when it is needed.

        Thirty seconds are a megabyte of features, too many to keep for each row.
        """
        folder, limit, end = self.folder, self.config.max_target_length, processor.tokenizer.eos_token_id

        def encode_batch(batch: dict[str, list[str]]) -> dict[str, Any]:
            ids = processor.tokenizer(batch["target"])["input_ids"]
            return {
                "input_features": [str(folder / audio) for audio in batch["audio"]],
                "labels": [[*each[: limit - 1], end] if len(each) > limit else each for each in ids],
                "length": [min(len(each), limit) for each in ids],
                "cut": [len(each) > limit for each in ids],
            }

        return rows.map(encode_batch, batched=True, remove_columns=rows.column_names, desc="tokenize")

    def collator(self, processor: Any, model: PreTrainedModel) -> Any:
        """Read and pad a batch."""
        return SpeechCollator(processor, model.config.decoder_start_token_id)

    def loss(self) -> Any:
        """Leave the loss to the model."""
        return None

    def evaluate(self, outputs: Any, targets: Any, rows: Dataset, features: Dataset) -> Evaluation:
        """Score generated token ids, int (rows, tokens); a mistake's loss is its row's word error rate."""
        predicted = texts_of(outputs, self.processor.tokenizer)
        expected = [text.strip() for text in rows["target"]]
        metrics = {"wer": float(jiwer.wer(expected, predicted)), "cer": float(jiwer.cer(expected, predicted))}
        rates = np.array([jiwer.wer(right, text) for right, text in zip(expected, predicted, strict=True)])
        return Evaluation(metrics=metrics, mistakes=mistakes_of(rows["audio"], expected, predicted, rates))


class SpeechCollator:
    """Turns paths into log-mel spectrograms, and pads labels with -100."""

    def __init__(self, processor: Any, begin: int) -> None:
        """`begin` is the token that the model itself puts before the labels."""
        self.extractor = processor.feature_extractor
        self.begin = begin

    def __call__(self, examples: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Return `input_features`, float32 (rows, mels, frames), and `labels`, int64 (rows, tokens)."""
        rate = self.extractor.sampling_rate
        sounds = [read_audio(Path(example["input_features"]), rate) for example in examples]
        features = self.extractor(sounds, sampling_rate=rate, return_tensors="pt")["input_features"]
        labels = [ids[1:] if ids[0] == self.begin else ids for ids in (example["labels"] for example in examples)]
        longest = max(len(ids) for ids in labels)
        padded = torch.tensor([[*ids, *[-100] * (longest - len(ids))] for ids in labels])
        return {"input_features": features, "labels": padded}


def _folder(source: str) -> Path:
    """Find the folder that relative paths count from."""
    path = Path(source)
    return path if path.is_dir() else path.parent if path.is_file() else Path.cwd()
