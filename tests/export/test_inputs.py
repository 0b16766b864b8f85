"""What a model gets follows from its tokenizer's class and its forward: in torch, in the graph and in serving alike."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from kit.data import write_splits
from kit.encoders import LABELS, MAX_LENGTH, SIZES, spread_logits
from kit.exports import prepare
from kit.texts import SEED, random_texts
from kit.tokenizers import word_piece, word_piece_tokenizer
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    GPT2Config,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedTokenizerFast,
    RobertaTokenizerFast,
    XLNetConfig,
)

from tuneport.errors import CheckpointError
from tuneport.stages.export.build import Passed
from tuneport.stages.export.inputs import input_names
from tuneport.stages.export.variants import VARIANTS

LABEL_SETTINGS = {"id2label": dict(enumerate(LABELS)), "label2id": {label: i for i, label in enumerate(LABELS)}}


def without_types() -> PreTrainedTokenizerFast:
    """A tokenizer of RoBERTa's class, which emits no token types, though its post-processor counts them."""
    tokenizer = RobertaTokenizerFast(
        tokenizer_object=word_piece(), pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        model_max_length=MAX_LENGTH,
    )  # fmt: skip
    tokenizer.backend_tokenizer.post_processor = word_piece().post_processor
    return tokenizer


def generic(**options: Any) -> PreTrainedTokenizerFast:
    """A tokenizer without a class of its own, which emits token types unless told otherwise."""
    tokenizer = word_piece_tokenizer("bert")
    options = {"pad_token": "[PAD]", "model_max_length": MAX_LENGTH, **options}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, **options)


def save(folder: Path, config: PretrainedConfig, tokenizer: PreTrainedTokenizerFast) -> Path:
    torch.manual_seed(SEED)
    model = AutoModelForSequenceClassification.from_config(config).eval()
    if hasattr(model, "classifier"):
        spread_logits(model, tokenizer)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


BERT = BertConfig(**{**SIZES, "vocab_size": 200}, initializer_range=0.3, **LABEL_SETTINGS)
GPT2 = GPT2Config(
    vocab_size=200, n_embd=32, n_layer=2, n_head=4, n_positions=MAX_LENGTH, pad_token_id=0, initializer_range=0.3,
    **LABEL_SETTINGS,
)  # fmt: skip
LLAMA = LlamaConfig(
    vocab_size=200, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, pad_token_id=0,
    num_key_value_heads=2, max_position_embeddings=MAX_LENGTH, initializer_range=0.3, **LABEL_SETTINGS,
)  # fmt: skip
XLNET = XLNetConfig(
    vocab_size=200, d_model=32, n_layer=2, n_head=4, d_inner=64, pad_token_id=0, initializer_range=0.3, **LABEL_SETTINGS
)
ALL = ("input_ids", "attention_mask", "token_type_ids")
CASES = {
    "bert without token types": (BERT, without_types, ALL[:2]),
    "bert with token types": (BERT, generic, ALL),
    "gpt2 with token types": (GPT2, generic, ALL),
    "gpt2 without token types": (GPT2, lambda: generic(model_input_names=["input_ids", "attention_mask"]), ALL[:2]),
    "llama, which takes no token types": (LLAMA, generic, ALL[:2]),
    "xlnet without token types": (XLNET, without_types, ALL[:2]),
    "bert without a mask": (BERT, lambda: generic(model_input_names=["input_ids"]), ALL[:1]),
}


@pytest.mark.parametrize("case", CASES)
def test_served_pairs_are_answered_as_by_torch(tmp_path: Path, case: str) -> None:
    config, make_tokenizer, inputs = CASES[case]
    checkpoint = save(tmp_path / "checkpoint", config, make_tokenizer())
    texts = random_texts(3)
    rows = [{"text": next(texts), "text_pair": next(texts), "label": LABELS[0]} for _ in range(24)]
    data = write_splits(tmp_path / "data", train=rows, validation=rows, test=rows)
    (tmp_path / "export").mkdir()
    prepared = prepare(tmp_path / "export", checkpoint, data)
    builder = prepared.builder(tmp_path / "variants")
    passed = builder.build_and_validate("fp32", VARIANTS["fp32"])
    assert isinstance(passed, Passed)
    graph_inputs = {each.name for each in prepared.source.family.signature(prepared.graph)[0]}
    assert graph_inputs <= set(inputs)
    assert {"token_type_ids"} & graph_inputs == {"token_type_ids"} & set(inputs)

    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    model = AutoModelForSequenceClassification.from_pretrained(checkpoint).eval()
    assert input_names(model, tokenizer) == inputs
    served = builder.open(passed.candidate.execution).run(prepared.reference.gate.rows)
    for row, outputs in zip(rows, served, strict=True):
        feeds = tokenizer(row["text"], row["text_pair"], truncation=True, max_length=MAX_LENGTH, return_tensors="pt")
        with torch.inference_mode():
            logits = model(**{name: feeds[name] for name in inputs}).logits[0].numpy()
        np.testing.assert_allclose(outputs["logits"], logits, atol=1e-3)


def test_a_model_that_needs_more_than_text_is_refused_by_name() -> None:
    class Pictures(torch.nn.Module):
        config = PretrainedConfig()
        config.model_type = "pictures"

        def forward(self, input_ids: torch.Tensor, pixel_values: torch.Tensor) -> None:
            """Take what a text does not have."""

    with pytest.raises(CheckpointError, match="pictures needs pixel_values, which a text does not have"):
        input_names(Pictures(), generic())
