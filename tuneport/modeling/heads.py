"""Classification and regression heads over pooled token states: CLS, mean, or attention pooling.

A saved checkpoint contains a copy of this file, so that transformers can load it without tuneport
(`trust_remote_code=True`). The file must therefore import only torch and transformers.
"""

import inspect
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput


class PooledConfig(PretrainedConfig):
    """An encoder's configuration and the pooling of its last hidden states."""

    model_type = "tuneport-pooled"

    def __init__(
        self,
        encoder: dict[str, Any] | None = None,
        pooling: str = "attention",
        cls_position: str = "first",
        **kwargs: Any,
    ) -> None:
        """`encoder` is the encoder's own configuration as a dict; `cls_position` says which token `cls` takes.

        That is the `first` of the text, or the `last`: XLNet's tokenizer puts it there, and only the last token of a
        causal model has seen the whole text.
        """
        self.encoder = encoder or {}
        self.pooling = pooling
        self.cls_position = cls_position
        super().__init__(**kwargs)


class PooledClassifier(PreTrainedModel):
    """An encoder, pooling of its last hidden states, dropout and one linear layer."""

    config_class = PooledConfig
    base_model_prefix = "encoder"
    supports_gradient_checkpointing = True

    def __init__(self, config: PooledConfig) -> None:
        """Build the model with random weights."""
        super().__init__(config)
        encoder = encoder_config(config)
        self.encoder = AutoModel.from_config(encoder)
        size = encoder.hidden_size
        self.attention = nn.Linear(size, 1) if config.pooling == "attention" else None
        self.dropout = nn.Dropout(getattr(encoder, "hidden_dropout_prob", 0.1))
        self.classifier = nn.Linear(size, config.num_labels)
        # Some tokenizers return token types for encoders that do not take them.
        self._takes_types = "token_type_ids" in inspect.signature(self.encoder.forward).parameters
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Initialize the new layers as BERT initializes its own."""
        if isinstance(module, nn.Linear):
            module.weight.data.normal_(mean=0.0, std=0.02)
            if module.bias is not None:
                module.bias.data.zero_()

    @classmethod
    def from_encoder(
        cls, source: str, pooling: str, *, encoder_config: PretrainedConfig, trust_remote_code: bool, **options: Any
    ) -> "PooledClassifier":
        """Load a pretrained encoder by its configuration and add a new head; `options` are of PretrainedConfig."""
        encoder = AutoModel.from_pretrained(
            source, config=encoder_config, use_safetensors=True, trust_remote_code=trust_remote_code
        )
        config = PooledConfig(
            encoder=encoder.config.to_dict(), pooling=pooling, pad_token_id=encoder.config.pad_token_id, **options
        )
        model = cls(config)
        model.encoder = encoder
        return model

    def get_input_embeddings(self) -> nn.Module:
        """Return the encoder's input embeddings."""
        return self.encoder.get_input_embeddings()

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> SequenceClassifierOutput:
        """Map int64 (rows, tokens) to logits, float (rows, labels)."""
        feeds = {"attention_mask": attention_mask, "inputs_embeds": inputs_embeds}
        if token_type_ids is not None and self._takes_types:
            feeds["token_type_ids"] = token_type_ids
        states = self.encoder(input_ids, **feeds).last_hidden_state
        if attention_mask is None:
            attention_mask = torch.ones(states.shape[:2], dtype=torch.int64, device=states.device)
        logits = self.classifier(self.dropout(self._pool(states, attention_mask)))
        loss = None if labels is None else self._loss(logits, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)

    def _pool(self, states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Pool (rows, tokens, hidden) to (rows, hidden), padding excluded."""
        if self.attention is not None:
            scores = self.attention(states).squeeze(-1)
            weights = scores.masked_fill(mask == 0, torch.finfo(scores.dtype).min).softmax(-1)
        elif self.config.pooling == "mean":
            weights = mask.to(states.dtype) / mask.sum(-1, keepdim=True).clamp(min=1).to(states.dtype)
        else:
            positions = torch.arange(mask.shape[1], device=mask.device).expand_as(mask)
            is_first = self.config.cls_position == "first"
            chosen = mask.argmax(-1) if is_first else (positions * mask).argmax(-1)  # padding may be on either side
            weights = (positions == chosen.unsqueeze(-1)).to(states.dtype)
        return (states * weights.unsqueeze(-1)).sum(1)

    def _loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Compute the loss that transformers uses for the same `problem_type`."""
        if self.config.problem_type == "regression":
            return nn.functional.mse_loss(logits, labels.view_as(logits).to(logits.dtype))
        if self.config.problem_type == "multi_label_classification":
            return nn.functional.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))
        return nn.functional.cross_entropy(logits, labels)


def encoder_config(config: PretrainedConfig) -> PretrainedConfig:
    """Return the configuration of the encoder under a pooling head; every other configuration as it is."""
    if config.model_type != PooledConfig.model_type:
        return config
    fields = dict(config.encoder)
    return AutoConfig.for_model(fields.pop("model_type"), **fields)


PooledConfig.register_for_auto_class()
PooledClassifier.register_for_auto_class("AutoModelForSequenceClassification")
AutoConfig.register(PooledConfig.model_type, PooledConfig)
