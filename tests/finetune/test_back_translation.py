"""Rows translated there and back by a real artifact join train; what cannot translate is refused."""

from pathlib import Path

import pytest
from kit.data import write_pairs, write_rows, write_splits
from kit.encoders import tiny_encoder
from kit.generative import build_seq2seq
from kit.texts import pairs

from tuneport.errors import ArtifactError, TuneportError
from tuneport.runtime.predictor import Predictor
from tuneport.stages.export.pipeline import ExportConfig, export
from tuneport.stages.finetune.config import FinetuneConfig, load_config
from tuneport.stages.finetune.setup import prepare
from tuneport.stages.finetune.train import finetune

TEXTS = ("eins zwei drei", "neun", "zehn elf")


@pytest.fixture(scope="module")
def translator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A barely trained tiny Marian, whose outputs differ from its inputs."""
    folder = tmp_path_factory.mktemp("translator")
    data = write_pairs(folder / "data", pairs(16), pairs(16)[:8])
    base = build_seq2seq(folder / "base", "marian")
    settings = ["max_steps=20", "eval_strategy=no", "save_strategy=no", "max_length=32", "max_target_length=16"]
    flags = {"task": "translation", "model": str(base), "data": str(data)}
    finetune(load_config(None, [*settings, "learning_rate=5e-3", "bf16=false"], flags), folder / "run")
    export(ExportConfig(checkpoint=folder / "run", variants=("fp32",), max_drop=1), folder / "artifact")
    return folder / "artifact"


def settings(tmp_path: Path, **changes: object) -> FinetuneConfig:
    rows = [{"text": text, "label": "ab"[i % 2]} for i, text in enumerate(TEXTS * 4)]
    data = write_splits(tmp_path / "data", train=rows, validation=rows[:4])
    model = tiny_encoder(tmp_path / "encoder")
    flags = {"task": "text-classification", "model": str(model), "data": str(data), **changes}
    return load_config(None, [], flags)


@pytest.mark.slow
def test_rows_come_back_with_their_labels(translator: Path, tmp_path: Path) -> None:
    prepared = prepare(settings(tmp_path, back_translation=[str(translator), str(translator)]))
    train = prepared.data.splits["train"].to_list()
    predictor = Predictor(translator)
    expected = []
    for row in train[:12]:
        there = predictor.predict([row["text"]])[0]["text"]
        back = predictor.predict([there])[0]["text"]
        if back.strip() and back != row["text"]:
            expected.append({"text": back, "label": row["label"]})
    assert expected
    assert train[12:] == expected
    assert len(prepared.features["validation"]) == 4


def test_what_is_no_translation_artifact_is_refused(tiny_artifact: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="is for text-classification"):
        prepare(settings(tmp_path / "a", back_translation=[str(tiny_artifact), str(tiny_artifact)]))
    with pytest.raises(ArtifactError, match="does not exist"):
        prepare(settings(tmp_path / "b", back_translation=[str(tmp_path / "nowhere"), str(tiny_artifact)]))
    rows = write_rows(
        tmp_path / "tagged.jsonl", [{"tokens": ["a"], "tags": ["O"]}, {"tokens": ["b"], "tags": ["B-X"]}] * 9
    )
    with pytest.raises(TuneportError, match="lose their targets"):
        prepare(
            settings(
                tmp_path / "c",
                task="token-classification",
                data=str(rows),
                back_translation=[str(tiny_artifact), str(tiny_artifact)],
            )
        )
