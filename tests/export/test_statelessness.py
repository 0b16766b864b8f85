"""A model whose answers depend on what it saw before, or on chance, is refused by name; long inputs are asked, too."""

from pathlib import Path
from typing import Any

import pytest
import torch
from kit.encoders import build_checkpoint
from kit.exports import quick_exports
from transformers import AutoModelForSequenceClassification, BertForSequenceClassification

from tuneport.errors import CheckpointError
from tuneport.stages.benchmarks.architectures.tiny_models import build_classifier
from tuneport.stages.export.config import ExportConfig
from tuneport.stages.export.pipeline import export

FORWARD = BertForSequenceClassification.forward


class Forward:
    """A forward of BERT that tests can spoil; each model has a memory of its own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, spoil: Any) -> None:
        def forward(model: Any, input_ids: Any = None, attention_mask: Any = None, token_type_ids: Any = None) -> Any:
            outputs = FORWARD(model, input_ids, attention_mask, token_type_ids)
            outputs.logits = spoil(model, input_ids, outputs.logits)
            return outputs

        monkeypatch.setattr(BertForSequenceClassification, "forward", forward)


def forgets_nothing(model: Any, input_ids: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """Answer otherwise for good after a short text."""
    model.saw_short = getattr(model, "saw_short", False) or input_ids.shape[1] < 12
    return logits if model.saw_short else logits + 1


def remembers_long(model: Any, input_ids: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """Answer otherwise for good after a text of the full length."""
    model.saw_long = getattr(model, "saw_long", False) or input_ids.shape[1] >= 64
    return logits + 1 if model.saw_long else logits


def draws_numbers(model: Any, input_ids: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """Answer by chance."""
    return logits + torch.randn(1)


def fails_beyond_40(model: Any, input_ids: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """Fail as an embedding does."""
    if input_ids.shape[1] > 40:
        raise IndexError("index out of range in self")
    return logits


def is_infinite(model: Any, input_ids: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """Answer nothing."""
    return logits / 0


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (forgets_nothing, "bert cannot be exported faithfully: its answer depends on the inputs that it saw before"),
        (remembers_long, "bert cannot be exported faithfully: its answer depends on the inputs that it saw before"),
        (draws_numbers, "bert cannot be exported faithfully: it gives another answer when it is asked again"),
        (fails_beyond_40, r"bert fails on \d+ inputs? of \d+ tokens \(index out of range in self\)"),
        (is_infinite, "bert cannot be exported faithfully: its outputs are not finite"),
    ],
)
def test_a_model_without_a_function_of_its_input_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoil: Any, words: str
) -> None:
    build_checkpoint(tmp_path / "checkpoint")
    Forward(monkeypatch, spoil)
    with quick_exports(), pytest.raises(CheckpointError, match=words) as caught:
        export(ExportConfig(checkpoint=tmp_path / "checkpoint", variants=("fp32",)), tmp_path / "artifact")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "artifact").exists()


def test_big_bird_with_full_attention_is_exported(tmp_path: Path) -> None:
    folder = build_classifier("big_bird", tmp_path / "checkpoint")
    model = AutoModelForSequenceClassification.from_pretrained(folder, attention_type="original_full")
    model.config.attention_type = "original_full"
    model.save_pretrained(folder)
    with quick_exports():
        manifest = export(ExportConfig(checkpoint=folder, variants=("fp32",)), tmp_path / "artifact")
    assert manifest.variants[0].evidence.parity.agreement == 1
