"""Tokenizers without a fast form, for generative models: a Marian with its two sentencepiece models."""

import json
from pathlib import Path

import pytest
import torch
from kit.generative import brief, seq2seq_config
from kit.texts import NUMBERS
from transformers import AutoModelForSeq2SeqLM, MarianTokenizer

from tuneport.runtime.predictor import Predictor
from tuneport.stages.export.checkpoint import open_checkpoint
from tuneport.stages.export.config import ExportConfig
from tuneport.stages.export.pipeline import export

TEXTS = ["eins zwei drei", "", "neun neun unknown", "vier " * 200]


@pytest.fixture(scope="module")
def marian(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Marian with two sentencepiece models, as published ones have, trained on the numbers."""
    sentencepiece = pytest.importorskip("sentencepiece")
    folder = tmp_path_factory.mktemp("marian")
    vocabulary = {"</s>": 0, "<unk>": 1}
    for name, words in (("source", [*NUMBERS]), ("target", [*NUMBERS.values()])):
        (folder / f"{name}.txt").write_text("\n".join(" ".join(words[i:] + words[:i]) for i in range(6)))
        sentencepiece.SentencePieceTrainer.train(
            input=str(folder / f"{name}.txt"), model_prefix=str(folder / name), vocab_size=30, minloglevel=2,
            hard_vocab_limit=False,
        )  # fmt: skip
        (folder / f"{name}.model").rename(folder / f"{name}.spm")
        for line in (folder / f"{name}.vocab").read_text(encoding="utf-8").splitlines():
            vocabulary.setdefault(line.split("\t")[0], len(vocabulary))
    vocabulary["<pad>"] = len(vocabulary)
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    tokenizer = MarianTokenizer(
        str(folder / "source.spm"), str(folder / "target.spm"), str(folder / "vocab.json"), model_max_length=128
    )
    tokenizer.save_pretrained(folder / "checkpoint")
    torch.manual_seed(0)
    pad = tokenizer.pad_token_id
    config = seq2seq_config("marian", len(tokenizer), pad_token_id=pad, eos_token_id=0, decoder_start_token_id=pad)
    brief(AutoModelForSeq2SeqLM.from_config(config)).save_pretrained(folder / "checkpoint")
    return folder / "checkpoint"


# transformers recommends a package that only normalizes punctuation.
@pytest.mark.filterwarnings("ignore:Recommended.*sacremoses:UserWarning")
@pytest.mark.usefixtures("_quick_exports")
def test_its_predictions_are_those_of_transformers(marian: Path, tmp_path: Path) -> None:
    assert not open_checkpoint(marian).tokenizer.is_fast
    manifest = export(ExportConfig(checkpoint=marian, variants=("fp32",)), tmp_path / "artifact")
    assert manifest.task == "translation"
    assert {"processor/source.spm", "processor/target.spm"} <= {file.path for file in manifest.files}
    tokenizer = MarianTokenizer.from_pretrained(marian)
    model = AutoModelForSeq2SeqLM.from_pretrained(marian).eval()
    answers = Predictor(tmp_path / "artifact").predict(TEXTS, {"max_new_tokens": 12})
    for text, answer in zip(TEXTS, answers, strict=True):
        feeds = tokenizer(text, truncation=True, max_length=128, return_tensors="pt")
        with torch.inference_mode():
            ids = model.generate(**feeds, max_new_tokens=12)[0]
        assert answer["text"] == tokenizer.decode(ids, skip_special_tokens=True).strip()
        assert answer.get("truncated", False) == (text == TEXTS[-1])
