"""Seeded random base models of every encoder family, with a fast tokenizer, a few kilobytes each."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AutoModel,
    BertConfig,
    DebertaV2Config,
    DistilBertConfig,
    ElectraConfig,
    LlamaConfig,
    ModernBertConfig,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaTokenizerFast,
    XLNetConfig,
)

from finetune.data import Data, read_data

FAMILIES = ("bert", "roberta", "distilbert", "deberta-v2", "modernbert", "electra", "xlnet")
MAX_LENGTH = 64
SEED = 7
WORDS = tuple(
    "the a of in at to and was is who where when what did does lives works met saw red blue old new big river city "
    "anna ben carl dora paris rome berlin oslo acme globex initech on monday friday march ? . ,".split()
)
QUICK: dict[str, Any] = {
    "max_length": 32, "max_steps": 2, "per_device_train_batch_size": 8, "eval_strategy": "no", "save_strategy": "no",
    "report_to": [], "bf16": False,
}  # fmt: skip
"""Settings of a run of a second."""
SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": MAX_LENGTH + 2,
    "pad_token_id": 0,
}


def tiny_encoder(folder: Path, family: str = "bert") -> Path:
    """Save a two-layer random base model and its tokenizer; returns the folder."""
    tokenizer = _byte_level(family) if family in ("roberta", "modernbert") else _word_piece(family)
    torch.manual_seed(SEED)
    AutoModel.from_config(_config(family, len(tokenizer))).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def nested_byte_level(folder: Path) -> Path:
    """Save a tiny Llama with the pre-tokenizers of Llama 3 and Qwen: a split by a pattern, then bytes."""
    pattern = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+|\s+"
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=["<pad>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([" " + " ".join(WORDS)] * 2, trainer)
    torch.manual_seed(SEED)
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(), hidden_size=32, intermediate_size=64, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=MAX_LENGTH, pad_token_id=0,
        eos_token_id=1,
    )  # fmt: skip
    AutoModel.from_config(config).save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>").save_pretrained(folder)
    return folder


def write_splits(folder: Path, **splits: Iterable[Any]) -> Path:
    """Write train.jsonl and its like; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in splits.items():
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    return folder


def read_splits(folder: Path, columns: Sequence[str]) -> Data:
    """Read what `write_splits` wrote."""
    return read_data(str(folder), columns={}, required=columns, optional=(), seed=1)


def _config(family: str, words: int) -> Any:
    sizes = {**SIZES, "vocab_size": words}
    if family == "roberta":
        return RobertaConfig(**sizes, type_vocab_size=1, bos_token_id=2, eos_token_id=3)
    if family == "distilbert":
        return DistilBertConfig(vocab_size=words, dim=32, n_layers=2, n_heads=2, hidden_dim=64, pad_token_id=0)
    if family == "deberta-v2":
        return DebertaV2Config(
            **sizes, type_vocab_size=0, relative_attention=True, pos_att_type=["p2c", "c2p"], position_buckets=16
        )
    if family == "modernbert":
        return ModernBertConfig(
            **sizes, cls_token_id=2, sep_token_id=3, bos_token_id=2, eos_token_id=3, local_attention=16,
            reference_compile=False,
        )  # fmt: skip
    if family == "xlnet":
        return XLNetConfig(vocab_size=words, d_model=32, n_layer=2, n_head=2, d_inner=64, pad_token_id=0)
    kind = {"bert": BertConfig, "electra": ElectraConfig}[family]
    return kind(**sizes, **({"embedding_size": 16} if family == "electra" else {}))


def _word_piece(family: str) -> PreTrainedTokenizerFast:
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    pieces = [*special, *WORDS, *letters, *(f"##{letter}" for letter in letters), *"-'\"/:;()@#"]
    vocabulary = {piece: i for i, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    ends = [("[CLS]", 2), ("[SEP]", 3)]
    if family == "xlnet":  # its CLS stands last
        single, pair = "$A [SEP] [CLS]:2", "$A [SEP] $B:1 [SEP]:1 [CLS]:2"
    else:
        single, pair = "[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1"
    tokenizer.post_processor = processors.TemplateProcessing(single=single, pair=pair, special_tokens=ends)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        mask_token="[MASK]", padding_side="left" if family == "xlnet" else "right",
    )  # fmt: skip


def _byte_level(family: str) -> PreTrainedTokenizerFast:
    special = ["<pad>", "<unk>", "<s>", "</s>", "<mask>"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([" ".join(WORDS)], trainer)
    names = dict(pad_token="<pad>", unk_token="<unk>", cls_token="<s>", sep_token="</s>", mask_token="<mask>")
    if family == "roberta":
        tokenizer.post_processor = processors.RobertaProcessing(("</s>", 3), ("<s>", 2), add_prefix_space=False)
        return RobertaTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", **names)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B:1 </s>:1", special_tokens=[("<s>", 2), ("</s>", 3)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)
