"""The longest input is what the position embeddings have rows for, whatever the family is called."""

from typing import Any

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModel, PretrainedConfig

from tuneport.modeling.heads import PooledConfig
from tuneport.modeling.positions import position_limit

SIZES: dict[str, Any] = {
    "vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32,
    "max_position_embeddings": 20,
}  # fmt: skip
LAYOUT = {"coordinate_size": 6, "shape_size": 4, "visual_embed": False}
LIMITS = (
    ("bert", {}, 20),
    ("roberta", {"pad_token_id": 0}, 19),
    ("roberta", {"pad_token_id": 1}, 18),
    ("roberta", {"pad_token_id": 7}, 12),
    ("xlm-roberta", {"pad_token_id": 1}, 18),
    ("ibert", {"pad_token_id": 1}, 18),
    ("esm", {"pad_token_id": 1, "position_embedding_type": "absolute"}, 18),
    ("layoutlmv3", {"pad_token_id": 1, **LAYOUT}, 18),
    ("mpnet", {"pad_token_id": 1}, 18),
    ("nystromformer", {}, 20),
)


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of LayoutLMv3, in transformers itself
@pytest.mark.parametrize(("model_type", "settings", "limit"), LIMITS)
def test_the_limit_is_the_longest_input_that_the_model_takes(
    model_type: str, settings: dict[str, Any], limit: int
) -> None:
    config = CONFIG_MAPPING[model_type](**SIZES, **settings)
    model = AutoModel.from_config(config).eval()
    assert position_limit(config) == position_limit(config, model) == limit
    with torch.inference_mode():
        ids = torch.full((1, limit + 1), 9)
        model(input_ids=ids[:, :limit], attention_mask=torch.ones_like(ids[:, :limit]))
        with pytest.raises((IndexError, RuntimeError)):
            model(input_ids=ids, attention_mask=torch.ones_like(ids))


def test_a_pooling_head_has_the_limit_of_its_encoder() -> None:
    config = CONFIG_MAPPING["ibert"](**SIZES, pad_token_id=1)
    assert position_limit(PooledConfig(encoder=config.to_dict(), pooling="mean")) == 18


def test_an_architecture_that_cannot_be_built_has_the_limit_that_it_declares() -> None:
    assert position_limit(PretrainedConfig(max_position_embeddings=20)) == 20
