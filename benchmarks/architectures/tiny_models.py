"""Build tiny random classifiers of any architecture, with the inputs that its own tokenizer emits."""

from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import nn
from transformers import CONFIG_MAPPING, AutoModelForSequenceClassification, PretrainedConfig, PreTrainedTokenizerFast
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CAUSAL
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES as MASKED
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES as CLASSIFIERS
from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING_NAMES

SPECIAL = ("<pad>", "<unk>", "<s>", "</s>")
WORDS = tuple(f"w{number}" for number in range(90))
MAX_LENGTH = 128
"""Tokens of an input."""
LABELS = ("low", "middle", "high")
SEED = 11
SPREAD = 2.0
"""Standard deviation of each logit over texts, so that a wrong answer is far from the right one."""
SIZES: dict[str, Any] = {
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "dim", "emb_dim", "embedding_size"), 32),
    **dict.fromkeys(("word_embed_proj_dim",), 32),
    **dict.fromkeys(("intermediate_size", "d_ff", "d_inner", "ffn_dim", "hidden_dim", "n_inner", "dff"), 64),
    **dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim", "feed_forward_size", "ffn_hidden_size"), 64),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers", "decoder_layers"), 2),
    **dict.fromkeys(("num_decoder_layers",), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "encoder_attention_heads"), 4),
    **dict.fromkeys(("decoder_attention_heads",), 4),
    **dict.fromkeys(("num_key_value_heads", "num_kv_heads"), 2),
    **dict.fromkeys(("head_dim", "d_kv", "d_head", "attention_head_size"), 8),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx", "max_encoder_position_embeddings"), 136),
    **dict.fromkeys(("max_decoder_position_embeddings", "max_seq_len", "seq_length"), 136),
    **dict.fromkeys(("num_experts", "n_routed_experts", "num_local_experts"), 4),
    **dict.fromkeys(("initializer_range", "init_std", "initializer_factor"), 0.15),
    "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "decoder_start_token_id": 2, "sep_token_id": 3,
    "cls_token_id": 2, "type_vocab_size": 2, "moe_intermediate_size": 32, "shared_expert_intermediate_size": 32,
    "reference_compile": False, "attention_window": 16, "block_size": 4, "num_random_blocks": 1, "local_attention": 16,
}  # fmt: skip
"""Settings of configurations, where an architecture has them: small enough for seconds, and long inputs that matter."""
EXTRAS: dict[str, dict[str, Any]] = {
    "canine": {"num_hash_functions": 4, "num_hash_buckets": 64, "upsampling_kernel_size": 4, "downsampling_rate": 2},
    "funnel": {"block_sizes": [1, 1], "num_decoder_layers": 1, "num_hidden_layers": None},
    "layoutlm": {"max_2d_position_embeddings": 64},
    "layoutlmv3": {"coordinate_size": 6, "shape_size": 4, "input_size": 32, "patch_size": 16},
    "lilt": {"channel_shrink_ratio": 2, "max_2d_position_embeddings": 64, "hidden_size": 48},
    "luke": {"entity_vocab_size": 8, "entity_emb_size": 16},
    "markuplm": {"max_xpath_tag_unit_embeddings": 8, "max_xpath_subs_unit_embeddings": 8, "xpath_unit_hidden_size": 4,
                 "tag_pad_id": 7, "subs_pad_id": 7},
    "perceiver": {"num_latents": 8, "d_latents": 32, "num_self_attends_per_block": 1, "num_self_attention_heads": 4,
                  "num_cross_attention_heads": 4},
    "reformer": {"axial_pos_shape": [8, 17], "axial_pos_embds_dim": [16, 16], "attn_layers": ["lsh", "local"],
                 "lsh_attn_chunk_length": 16, "local_attn_chunk_length": 16, "num_buckets": 8, "is_decoder": False},
    "roc_bert": {"pronunciation_vocab_size": 8, "shape_vocab_size": 8, "pronunciation_embed_dim": 16,
                 "shape_embed_dim": 16},
    "squeezebert": {"embedding_size": 32},
    "xlnet": {"max_position_embeddings": None},
    "xmod": {"languages": ["en_XX"], "default_language": "en_XX"},
}  # fmt: skip
"""Further settings of single architectures; None removes one of `SIZES`."""
MAX_PARAMETERS = 5_000_000
"""Beyond that a configuration has sizes that are not set here."""


def encoder_architectures() -> list[str]:
    """Return the model types that transformers has for classification and that are no decoders.

    XLNet is listed for generation, yet its tokens see all others.
    """
    classifiers, masked, causal = (set(names) for names in (CLASSIFIERS, MASKED, CAUSAL))
    return sorted(classifiers & (masked | {"xlnet"}) | classifiers - causal)


def own_tokenizer(model_type: str) -> type[PreTrainedTokenizerFast] | None:
    """Return the fast tokenizer class of an architecture; None if it has none."""
    names = TOKENIZER_MAPPING_NAMES.get(model_type) or (None, None)
    return getattr(transformers, names[1]) if names[1] else None


def build_classifier(model_type: str, folder: Path) -> Path:
    """Save a random classifier of an architecture with a tokenizer of whole words; returns the folder."""
    tokenizer = _tokenizer(own_tokenizer(model_type))
    torch.manual_seed(SEED)
    config = _config(model_type, len(tokenizer))
    with torch.device("meta"):
        size = AutoModelForSequenceClassification.from_config(config).num_parameters()
    if size > MAX_PARAMETERS:
        raise ValueError(f"its smallest configuration here has {size:,} parameters")
    model = AutoModelForSequenceClassification.from_config(config).eval()
    _spread_logits(model, tokenizer)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _config(model_type: str, vocab_size: int) -> PretrainedConfig:
    """Return the smallest configuration: the default one with each of `SIZES` that it has."""
    kind: Any = CONFIG_MAPPING[model_type]
    default = kind()
    sizes = {name: value for name, value in SIZES.items() if hasattr(default, name) and name not in kind.attribute_map}
    labels = {"id2label": dict(enumerate(LABELS)), "label2id": {label: i for i, label in enumerate(LABELS)}}
    settings = {**sizes, "vocab_size": vocab_size, **EXTRAS.get(model_type, {})}
    return kind(**{name: value for name, value in settings.items() if value is not None}, **labels)


def _tokenizer(like: type[PreTrainedTokenizerFast] | None) -> PreTrainedTokenizerFast:
    """Return a tokenizer of whole words that emits, and pads on, what the class `like` does."""
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate((*SPECIAL, *WORDS))}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B:1 </s>:1", special_tokens=[("<s>", 2), ("</s>", 3)]
    )
    like = like or PreTrainedTokenizerFast
    return PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", unk_token="<unk>", bos_token="<s>", eos_token="</s>",
        cls_token="<s>", sep_token="</s>", model_max_length=MAX_LENGTH, model_input_names=like.model_input_names,
        padding_side=like.padding_side,
    )  # fmt: skip


def _spread_logits(model: Any, tokenizer: PreTrainedTokenizerFast) -> None:
    """Scale the last layer so that each logit has the standard deviation `SPREAD` over many texts, and center it."""
    generator = torch.Generator().manual_seed(SEED)
    head = [each for each in model.modules() if isinstance(each, nn.Linear) and each.out_features == len(LABELS)][-1]
    with torch.no_grad():
        outputs = []
        for _ in range(24):
            length = int(torch.randint(1, 60, (), generator=generator))
            ids = torch.randint(len(SPECIAL), len(tokenizer), (1, length), generator=generator)
            outputs.append(model(input_ids=torch.cat([torch.tensor([[2]]), ids, torch.tensor([[3]])], 1)).logits[0])
        logits = torch.stack(outputs)
        scale = SPREAD / logits.std(0).clamp(min=1e-6)
        head.weight.mul_(scale[:, None])
        if head.bias is not None:
            head.bias.sub_(logits.mean(0)).mul_(scale)
