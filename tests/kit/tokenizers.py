"""Small fast tokenizers: WordPiece and byte-level BPE as encoders and decoders have them, whole words, Whisper's."""

import json
from collections.abc import Iterable
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast, RobertaTokenizerFast, WhisperTokenizerFast

from .texts import NUMBERS, WORDS

SPECIAL = ["<pad>", "</s>", "<unk>", "<s>"]
PAD, END, UNKNOWN, BEGIN = range(4)
"""Ids of `SPECIAL` in tokenizers of whole words."""
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
MARKING_TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>{% if message.role == 'assistant' %}"
    "{% generation %}{{ message.content }}</s>{% endgeneration %}{% else %}{{ message.content }}</s>{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
"""A chat template that marks what the model generates."""
LLAMA_SPLIT = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+|\s+"


def word_piece(*, cls_last: bool = False) -> Tokenizer:
    """Return BERT's pipeline over `WORDS` and single letters; `cls_last` puts [CLS] at the end, as XLNet does."""
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    pieces = [*letters, *(f"##{letter}" for letter in letters), "##ing", "##ed", "##s", *"-'\"/:;()<>@#%&="]
    vocabulary = {piece: i for i, piece in enumerate(dict.fromkeys([*special, *WORDS, *pieces]))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    single, pair = "[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1"
    if cls_last:
        single, pair = "$A [SEP] [CLS]:2", "$A [SEP] $B:1 [SEP]:1 [CLS]:2"
    ends = [("[CLS]", 2), ("[SEP]", 3)]
    tokenizer.post_processor = processors.TemplateProcessing(single=single, pair=pair, special_tokens=ends)
    return tokenizer


def word_piece_tokenizer(family: str) -> PreTrainedTokenizerFast:
    """Wrap `word_piece` for an encoder; XLNet's pads on the left."""
    is_xlnet = family == "xlnet"
    return PreTrainedTokenizerFast(
        tokenizer_object=word_piece(cls_last=is_xlnet), pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]",
        sep_token="[SEP]", mask_token="[MASK]", padding_side="left" if is_xlnet else "right",
    )  # fmt: skip


def byte_level_encoder_tokenizer(family: str) -> PreTrainedTokenizerFast:
    """Return a byte-level BPE with the special tokens of RoBERTa or of ModernBERT."""
    special = ["<pad>", "<unk>", "<s>", "</s>", "<mask>"]
    tokenizer = _train_bytes([" ".join(WORDS)], special, vocab_size=400)
    names = dict(pad_token="<pad>", unk_token="<unk>", cls_token="<s>", sep_token="</s>", mask_token="<mask>")
    if family == "roberta":
        tokenizer.post_processor = processors.RobertaProcessing(("</s>", 3), ("<s>", 2), add_prefix_space=False)
        return RobertaTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", **names)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B:1 </s>:1", special_tokens=[("<s>", 2), ("</s>", 3)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


def byte_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """Return a byte-level BPE as GPT-2's, with chat roles as special tokens and no padding token but the end's."""
    special = ["</s>", "<|system|>", "<|user|>", "<|assistant|>"]
    tokenizer = _train_bytes(texts, special, vocab_size=320)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", bos_token="</s>")


def llama_tokenizer() -> PreTrainedTokenizerFast:
    """Return a BPE with the pre-tokenizers of Llama 3 and Qwen: a split by a pattern, then bytes."""
    split = pre_tokenizers.Split(Regex(LLAMA_SPLIT), "isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    texts = [" " + " ".join(WORDS)] * 2
    tokenizer = _train_bytes(texts, ["<pad>", "</s>"], vocab_size=500, pre_tokenizer=pre_tokenizer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>")


def unigram(*, split: bool = True) -> Tokenizer:
    """Return SentencePiece's unigram pipeline as T5 and XLM-R have it; without `split` a text is one word."""
    tokenizer = Tokenizer(models.Unigram())
    blanks = normalizers.Replace(Regex(" {2,}"), " ")
    tokenizer.normalizer = normalizers.Sequence([normalizers.Nmt(), normalizers.NFKC(), blanks])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(split=split)
    trainer = trainers.UnigramTrainer(
        vocab_size=220, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator([" ".join(WORDS), "aa aab ab abab ba é 世 世界 7"] * 3, trainer)
    single, pair = "$A </s>", "$A </s> $B </s>"
    tokenizer.post_processor = processors.TemplateProcessing(single=single, pair=pair, special_tokens=[("</s>", END)])
    return tokenizer


def metaspace_bpe() -> Tokenizer:
    """Return Llama 2's pipeline: BPE over the whole text, its spaces replaced, and bytes for unknown characters."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    special = [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256))]
    texts = [" ".join(WORDS), "aa aab ab abab ba é 世 世界 7"] * 3
    trained.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=520, special_tokens=special, show_progress=False))
    model = json.loads(trained.to_str())["model"]
    merges = [tuple(pair) for pair in model["merges"]]
    tokenizer = Tokenizer(models.BPE(model["vocab"], merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    single, pair = "<s> $A", "<s> $A <s>:1 $B:1"
    tokenizer.post_processor = processors.TemplateProcessing(single=single, pair=pair, special_tokens=[("<s>", BEGIN)])
    return tokenizer


def word_tokenizer(*, ends: bool = True) -> PreTrainedTokenizerFast:
    """Return a tokenizer of whole words; `ends` puts `</s>` after each text, as T5's does."""
    tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    words = [*NUMBERS, *NUMBERS.values(), *"translate German to English say it in please :".split()]
    tokenizer.train_from_iterator([words], trainers.WordLevelTrainer(special_tokens=SPECIAL), length=1)
    if ends:
        tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", END)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", bos_token="<s>"
    )


def whisper_tokenizer(words: Iterable[str]) -> WhisperTokenizerFast:
    """Return a byte-level BPE with Whisper's special tokens for English and German."""
    tokenizer = _train_bytes(words, [], vocab_size=280)
    end = "<|endoftext|>"
    names = "startoftranscript en de translate transcribe startoflm startofprev nospeech notimestamps".split()
    wrapped = WhisperTokenizerFast(
        tokenizer_object=tokenizer, additional_special_tokens=[f"<|{name}|>" for name in names], bos_token=end,
        eos_token=end, unk_token=end, pad_token=end,
    )  # fmt: skip
    wrapped.set_prefix_tokens(language="en", task="transcribe")
    return wrapped


def _train_bytes(texts: Iterable[str], special: list[str], *, vocab_size: int, pre_tokenizer: Any = None) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer or pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer
