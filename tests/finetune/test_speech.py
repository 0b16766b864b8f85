"""Whisper learns transcripts of short recordings, whatever their rate and channels, and every bad file is named."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jiwer
import numpy as np
import pytest
import soundfile
import torch
from kit.data import write_rows
from kit.encoders import build_checkpoint
from kit.generative import build_seq2seq, build_whisper
from safetensors.torch import load_file
from transformers import AutoModelForSpeechSeq2Seq, AutoProcessor, BertModel

from tuneport.errors import CheckpointError, DataError, TuneportError
from tuneport.stages.finetune.audio import LONGEST_S, read_audio
from tuneport.stages.finetune.config import FinetuneConfig, load_config
from tuneport.stages.finetune.setup import load_model, prepare
from tuneport.stages.finetune.train import finetune

Settings = Callable[..., FinetuneConfig]
TONES = {"low": 300.0, "middle": 1200.0, "high": 4000.0}
RATE = 16_000
QUICK = {
    "task": "automatic-speech-recognition", "max_target_length": 12, "max_steps": 2, "eval_strategy": "no",
    "save_strategy": "no", "report_to": [], "bf16": False, "per_device_train_batch_size": 6, "learning_rate": 5e-3,
}  # fmt: skip


def tone(path: Path, hertz: float, rate: int = RATE, channels: int = 1, seconds: float = 0.6) -> None:
    wave = 0.5 * np.sin(2 * np.pi * hertz * np.arange(int(rate * seconds)) / rate)
    soundfile.write(path, np.stack([wave] * channels, axis=1), rate)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_whisper(tmp_path_factory.mktemp("whisper"), list(TONES))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tones in three rates, as WAV and FLAC, one and two channels; the transcript says how high they are."""
    folder = tmp_path_factory.mktemp("tones")
    rows = []
    for word, hertz in TONES.items():
        for rate, channels, suffix in ((16_000, 1, "wav"), (44_100, 2, "flac"), (11_025, 1, "wav")):
            name = f"{word}-{rate}.{suffix}"
            tone(folder / name, hertz, rate, channels)
            rows.append({"audio": name, "target": f"{word} tone"})
    rows[0]["audio"] = str(folder / rows[0]["audio"])
    for split in ("train", "validation", "test"):
        write_rows(folder / f"{split}.jsonl", rows)
    return folder


@pytest.fixture(scope="module")
def settings(base: Path, data: Path) -> Settings:
    def make(**changes: Any) -> FinetuneConfig:
        return load_config(flags={**QUICK, "model": str(base), "data": str(data), **changes})

    return make


def _transcribe(checkpoint: Path, files: list[Path]) -> list[str]:
    """What transformers alone makes of a checkpoint."""
    processor = AutoProcessor.from_pretrained(checkpoint)
    model = AutoModelForSpeechSeq2Seq.from_pretrained(checkpoint)
    sounds = [read_audio(file, RATE) for file in files]
    features = processor(sounds, sampling_rate=RATE, return_tensors="pt")["input_features"]
    return [text.strip() for text in processor.batch_decode(model.generate(features), skip_special_tokens=True)]


def test_tones_are_learnt_and_the_error_rates_are_those_of_transformers_alone(
    settings: Settings, data: Path, tmp_path: Path
) -> None:
    first = finetune(settings(max_steps=1, learning_rate=1e-6), tmp_path / "first")
    run = finetune(settings(max_steps=60, target_language="en"), tmp_path / "run")
    assert first.metrics["test"]["wer"] > 0.9
    assert run.metrics["test"]["wer"] < 0.4
    rows = [json.loads(line) for line in (data / "test.jsonl").read_text().splitlines()]
    written = _transcribe(tmp_path / "run" / "checkpoint", [data / row["audio"] for row in rows])
    expected = [row["target"] for row in rows]
    assert run.metrics["test"]["wer"] == pytest.approx(jiwer.wer(expected, written))
    assert run.metrics["test"]["cer"] == pytest.approx(jiwer.cer(expected, written))


def test_labels_begin_after_the_token_that_the_model_adds(settings: Settings) -> None:
    prepared = prepare(settings())
    model, tokenizer = load_model(prepared), prepared.processor.tokenizer
    rows = [{name: prepared.features["train"][i][name] for name in ("input_features", "labels")} for i in (0, 0)]
    rows[1]["labels"] = rows[1]["labels"][:-2]
    batch = prepared.task.collator(prepared.processor, model)(rows)
    assert batch["input_features"].shape == (2, 16, 100)
    words = ["<|en|>", "<|transcribe|>", "<|notimestamps|>", *tokenizer.tokenize("low tone"), "<|endoftext|>"]
    assert tokenizer.convert_ids_to_tokens(batch["labels"][0]) == words
    kept = len(words) - 2
    assert batch["labels"][1].tolist() == [*batch["labels"][0, :kept].tolist(), -100, -100]


@pytest.mark.parametrize(("rate", "channels"), [(16_000, 1), (44_100, 2), (8_000, 1), (22_050, 2)])
def test_recordings_come_as_one_channel_at_the_models_rate(rate: int, channels: int, tmp_path: Path) -> None:
    tone(tmp_path / "a.wav", 440.0, rate, channels)
    samples = read_audio(tmp_path / "a.wav", RATE)
    assert samples.dtype == np.float32
    assert samples.shape == (round(0.6 * RATE),)
    loudest = np.abs(np.fft.rfft(samples)).argmax() / 0.6
    assert loudest == pytest.approx(440, abs=2)
    assert np.abs(samples[1000:-1000]).max() == pytest.approx(0.5, abs=0.02)


def test_channels_are_averaged(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.array([[0.5, 0.0], [0.25, 0.25]]), RATE, subtype="FLOAT")
    assert read_audio(tmp_path / "a.wav", RATE).tolist() == [0.25, 0.25]


def test_every_bad_row_is_named_at_once(settings: Settings, tmp_path: Path) -> None:
    tone(tmp_path / "good.wav", 300)
    tone(tmp_path / "long.wav", 300, rate=1000, seconds=LONGEST_S + 1)
    (tmp_path / "text.wav").write_text("no sound")
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), RATE)
    soundfile.write(tmp_path / "nan.wav", np.full(9, np.nan), RATE, subtype="FLOAT")
    names = ["good.wav", "gone.wav", "text.wav", "long.wav", "good.wav"]
    rows = [{"audio": name, "target": "a" if i < 4 else " "} for i, name in enumerate(names)]
    write_rows(tmp_path / "train.jsonl", rows)
    write_rows(tmp_path / "validation.jsonl", [{"audio": "good.wav", "target": None}])
    with pytest.raises(DataError) as caught:
        finetune(settings(data=str(tmp_path)), tmp_path / "run")
    for part in (
        "train.jsonl row 2: audio 'gone.wav' does not exist",
        "train.jsonl row 3: audio 'text.wav' cannot be read",
        "train.jsonl row 4: audio 'long.wav' lasts 31.0 s",
        "train.jsonl row 5: target is an empty string",
        "validation.jsonl row 1: target is None",
    ):
        assert part in str(caught.value)
    write_rows(tmp_path / "train.jsonl", [{"audio": name, "target": "a"} for name in ("empty.wav", "nan.wav")])
    write_rows(tmp_path / "validation.jsonl", [{"audio": "good.wav", "target": "a"}])
    with pytest.raises(DataError, match=r"row 1: audio 'empty.wav' has no samples.*row 2: .*that are no numbers"):
        finetune(settings(data=str(tmp_path)), tmp_path / "run")


def test_a_model_without_spectrograms_is_refused(settings: Settings, tmp_path: Path) -> None:
    build_checkpoint(tmp_path / "bert", architecture=BertModel)
    build_seq2seq(tmp_path / "t5", "t5")
    for name in ("bert", "t5"):
        with pytest.raises(CheckpointError) as caught:
            finetune(settings(model=str(tmp_path / name)), tmp_path / "run")
        assert "\n" not in str(caught.value)


def test_unknown_languages_and_lengths_are_refused(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(TuneportError, match="klingon"):
        finetune(settings(target_language="klingon"), tmp_path / "run")
    with pytest.raises(CheckpointError, match=r"max_target_length is 64 and .* has 32 positions"):
        finetune(settings(max_target_length=64), tmp_path / "run")


def test_lora_is_merged_and_the_tied_head_stays(base: Path, settings: Settings, tmp_path: Path) -> None:
    finetune(settings(strategy="lora", lora_r=4), tmp_path / "run")
    before = load_file(base / "model.safetensors")
    after = load_file(tmp_path / "run" / "checkpoint" / "model.safetensors")
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all("_proj.weight" in name or ".fc" in name for name in changed)
    with pytest.raises(TuneportError, match="is its embeddings"):
        finetune(settings(strategy="head"), tmp_path / "head")
