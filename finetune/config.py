"""Settings of a fine-tuning run: from a TOML file, `--set key=value` and flags, each outweighing those before."""

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import ConfigDict, Field, ValidationError, field_validator, model_validator

from tuneport.errors import TuneportError
from tuneport.schema.base import Frozen, settings_error
from tuneport.tasks import TaskName

from .applicability import USED_BY, find_unused

Share = Field(default=0.0, ge=0, lt=1)


class FinetuneConfig(Frozen):
    """One run. Names that `transformers.TrainingArguments` or peft have mean here what they mean there."""

    model_config = ConfigDict(allow_inf_nan=False)

    task: TaskName
    """The task, which decides the data's columns, the model's head and the metrics."""
    model: str
    """A folder, a name on the hub, or `minilm-l6`, the embedded encoder."""
    data: str
    """A folder with train/validation/test files, one file that is split with the seed, or a name on the hub."""
    columns: dict[str, str] = Field(default_factory=dict)
    """Column of the task → column of the data, where they differ."""
    splits: dict[str, str] = Field(default_factory=dict)
    """Split (train, validation, test) → its name in the data, where it is another: validation=dev_matched."""
    trust_remote_code: bool = False
    """Run Python code from the model's repository."""
    seed: int = Field(default=42, ge=0, lt=2**32)
    """Seed of initialization, shuffling, dropout and the split of a single file."""

    # Inputs
    max_length: int = Field(default=128, ge=8)
    """Tokens of an input, special tokens included; longer inputs are truncated, contexts of questions windowed."""
    doc_stride: int = Field(default=32, ge=0)
    """Question answering: tokens that neighbouring windows of a long context share."""
    max_target_length: int = Field(default=64, ge=2)
    """Translation, summarization, speech recognition: tokens of a target."""
    num_beams: int = Field(default=1, ge=1)
    """Beams of generation, in evaluation and as the checkpoint's default."""
    source_prefix: str = ""
    """Translation, summarization: text before every source, for example "translate German to English: " for T5."""
    source_language: str = ""
    """Translation: the source's code, for tokenizers that mark languages (mBART "de_DE", NLLB "deu_Latn")."""
    target_language: str = ""
    """Translation: the target's code; speech recognition: the language spoken ("de"), for a multilingual Whisper."""
    chat_template: str | None = None
    """Text generation from `messages`: file with a Jinja chat template; unset: the tokenizer's own."""

    # What is trained
    # full: all parameters; head: the task's head, with the pooler and the last norm below it; last_layers: these and
    # `num_last_layers` layers; gradual: more layers each epoch, from the head down, in the last epoch all; lora,
    # adalora, ia3: merged into the weights after training; prefix, adapter: saved beside the weights.
    strategy: Literal["full", "head", "last_layers", "gradual", "lora", "adalora", "ia3", "prefix", "adapter"] = "full"
    """Which parameters are trained; lora, adalora and ia3 are merged at the end, prefix and adapter saved apart."""
    num_last_layers: int = Field(default=2, ge=1)
    """strategy = last_layers: layers below the head that are trained."""
    layer_lr_decay: float = Field(default=1.0, gt=0, le=1)
    """Learning rate of a layer as a fraction of the rate of the layer above (discriminative rates)."""
    lora_r: int = Field(default=8, ge=1)
    """LoRA, AdaLoRA: rank of the update matrices."""
    lora_alpha: int = Field(default=16, ge=1)
    """LoRA, AdaLoRA: scale of the update, divided by the rank."""
    lora_dropout: float = Share
    """LoRA, AdaLoRA: dropout of the inputs of the update matrices."""
    target_modules: tuple[str, ...] = ()
    """LoRA, AdaLoRA, IA3: names of the linear layers; unset: peft's choice for the architecture, else all."""
    num_virtual_tokens: int = Field(default=16, ge=1)
    """Prefix tuning: length of the prefix."""
    adapter_reduction_factor: float = Field(default=16, ge=1)
    """Bottleneck adapters: the model's width divided by the adapter's."""
    pooling: Literal["default", "cls", "mean", "attention"] = "default"
    """Classification, regression: pooling of the token states; default: the architecture's own head."""

    # How it is trained
    num_train_epochs: float = Field(default=3, gt=0)
    """Passes over the train split."""
    max_steps: int = Field(default=-1, ge=-1)
    """Optimizer steps; overrides num_train_epochs when positive."""
    optim: Literal["adamw_torch", "adam", "adagrad", "sgd", "adafactor"] = "adamw_torch"
    """Optimizer."""
    learning_rate: float = Field(default=5e-5, gt=0)
    """Highest learning rate of the schedule."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """optim = sgd: momentum."""
    per_device_train_batch_size: int = Field(default=16, ge=1)
    """Rows of a training batch on each device."""
    per_device_eval_batch_size: int = Field(default=32, ge=1)
    """Rows of an evaluation batch on each device."""
    gradient_accumulation_steps: int = Field(default=1, ge=1)
    """Batches whose gradients are added up for one optimizer step."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, more time."""
    weight_decay: float = Field(default=0.01, ge=0)
    """Weight decay, of all parameters but biases and norms."""
    max_grad_norm: float = Field(default=1.0, ge=0)
    """Norm that gradients are clipped to; 0: no clipping."""
    warmup_ratio: float = Field(default=0.1, ge=0, le=1)
    """Share of the steps in which the learning rate rises from 0."""
    lr_scheduler_type: Literal["linear", "cosine", "constant", "constant_with_warmup"] = "linear"
    """Schedule of the learning rate."""
    dropout: float | None = Field(default=None, ge=0, lt=1)
    """Rate of every dropout layer; unset: the base model's."""
    label_smoothing_factor: float = Share
    """Label smoothing: the share of a target that is spread over all classes."""
    class_weights: Literal["none", "balanced"] = "none"
    """Weights of the classes in the loss; balanced: in inverse proportion to their rows."""
    adversarial_epsilon: float = Field(default=0.0, ge=0)
    """FGM: length of the step along the embeddings' gradient at which a second gradient is taken; 0: off."""
    group_by_length: bool = True
    """Batch inputs of similar length together, which needs less padding."""
    bf16: bool | None = None
    """bfloat16 autocast; unset: where the hardware has bfloat16 instructions."""
    fp16: bool = False
    """float16 autocast with loss scaling; on a GPU only."""
    tf32: bool | None = None
    """TF32 for products of fp32 matrices; unset: where the GPU has it."""
    torch_compile: bool = False
    """Compile the model with torch.compile, which takes minutes in the first steps."""
    dataloader_num_workers: int | None = Field(default=None, ge=0)
    """Processes that prepare batches, on each device; unset: 2 on a GPU, else 0, the training process itself."""

    # More data
    # Each train row gets one changed copy if any augment_… is set, with all changes that are set, and another one if
    # back_translation is.
    augment_swap: float = Share
    """Share of an input's words that are swapped with another, in the changed copy of each train row."""
    augment_delete: float = Share
    """Share of an input's words that are deleted, in the changed copy of each train row."""
    augment_synonyms: float = Share
    """Share of an input's words that are replaced by synonyms, in the changed copy of each train row."""
    synonyms: str | None = None
    """augment_synonyms: the lexicon, a JSON file that maps words to lists of synonyms."""
    back_translation: tuple[str, str] | None = None
    """Two translation artifacts, there and back, that paraphrase each train row in one more copy."""
    pseudo_label_data: str | None = None
    """Unlabelled data whose confident predictions by a first model join the train split of a second one."""
    pseudo_label_threshold: float = Field(default=0.9, gt=0, le=1)
    """pseudo_label_data: the least probability of a prediction that joins train."""
    rehearsal_data: str | None = None
    """Earlier data, some of whose train rows join train, so that continued training does not forget them."""
    rehearsal_ratio: float = Field(default=0.25, gt=0)
    """rehearsal_data: earlier rows for each new one."""

    # Evaluation, checkpoints and tracking
    eval_strategy: Literal["no", "epoch", "steps"] = "epoch"
    """When the validation split is evaluated during training."""
    eval_steps: int | None = Field(default=None, ge=1)
    """eval_strategy = steps: steps between evaluations; unset: logging_steps."""
    save_strategy: Literal["no", "epoch", "steps"] = "epoch"
    """When checkpoints are saved, from which an interrupted run resumes."""
    save_steps: int = Field(default=500, ge=1)
    """save_strategy = steps: steps between checkpoints."""
    logging_steps: int = Field(default=10, ge=1)
    """Steps between entries of the log."""
    load_best_model_at_end: bool = False
    """Restore the best checkpoint when training ends."""
    metric_for_best_model: str | None = None
    """Metric that selects the best checkpoint: one of the task's, or `loss`; unset: the task's own choice."""
    early_stopping_patience: int | None = Field(default=None, ge=1)
    """Stop after so many evaluations without improvement, and restore the best checkpoint."""
    report_to: tuple[Literal["tensorboard", "wandb", "mlflow"], ...] = ("tensorboard",)
    """Experiment trackers that the run is logged to."""

    @field_validator("report_to", "target_modules", "back_translation", mode="before")
    @classmethod
    def _split_list(cls, value: Any) -> Any:
        """Read the strings `a` and `a,b`, which `--set` may give, as lists; `none` is transformers' empty list."""
        if not isinstance(value, str):
            return value
        return () if value == "none" else tuple(item.strip() for item in value.split(",") if item.strip())

    @model_validator(mode="after")
    def _check_consistency(self) -> Self:
        if self.max_steps == 0:
            raise ValueError("max_steps = 0 would train nothing: give a number of steps, or -1 to count epochs")
        if self.fp16 and self.bf16:
            raise ValueError("fp16 and bf16 exclude each other")
        if self.early_stopping_patience and self.eval_strategy == "no":
            raise ValueError("early_stopping_patience needs eval_strategy = epoch or steps")
        if self.restores_best and self.save_strategy != self.eval_strategy:
            raise ValueError("to restore the best checkpoint, save_strategy must equal eval_strategy")
        steps = self.eval_steps or self.logging_steps
        if self.restores_best and self.save_strategy == "steps" and self.save_steps % steps:
            raise ValueError(
                f"to restore the best checkpoint, save_steps = {self.save_steps} must be a multiple of the steps "
                f"between evaluations, {steps}"
            )
        if self.strategy in ("adapter", "prefix") and self.pooling != "default":
            raise ValueError(f"strategy = {self.strategy} needs the architecture's own head: leave out pooling")
        if self.strategy == "prefix" and self.gradient_checkpointing:
            raise ValueError("strategy = prefix cannot be recomputed: leave out gradient_checkpointing")
        if self.torch_compile and self.strategy == "gradual":
            raise ValueError("strategy = gradual would compile the model again in each epoch: leave out torch_compile")
        if self.augment_synonyms and not self.synonyms:
            raise ValueError("augment_synonyms needs synonyms, the path of a lexicon")
        return self

    @property
    def inputs(self) -> tuple[str, ...]:
        """What a run reads: files, folders and names on the hub."""
        given = (self.model, self.data, self.rehearsal_data, self.pseudo_label_data, self.synonyms, self.chat_template)
        return tuple(path for path in (*given, *(self.back_translation or ())) if path)

    @property
    def restores_best(self) -> bool:
        """Whether the best checkpoint is restored when training ends."""
        return self.load_best_model_at_end or self.early_stopping_patience is not None


def load_config(
    file: Path | None = None, settings: Sequence[str] = (), flags: Mapping[str, Any] | None = None
) -> FinetuneConfig:
    """Merge a TOML file, `key=value` settings and flags that are not None.

    Raises a TuneportError that lists all wrong settings, and those that the run would ignore.
    """
    values = {**_read_toml(file), **dict(_parse_setting(setting) for setting in settings)}
    values |= {key: value for key, value in (flags or {}).items() if value is not None}
    try:
        config = FinetuneConfig.model_validate(values)
    except ValidationError as error:
        raise settings_error(error, FinetuneConfig, "tuneport finetune --help") from error
    refuse_unused(config)
    return config


DECISIVE = tuple(dict.fromkeys(["task", *(setting for setting, _ in USED_BY.values())]))
"""Settings whose values make others useless."""


def refuse_unused(config: FinetuneConfig, by: tuple[str, ...] = DECISIVE) -> None:
    """Raise a TuneportError for changed settings that the run would ignore because of one of the settings `by`."""
    changed = config.model_dump(exclude_defaults=True)
    if unused := list(find_unused(changed, config, by)):
        raise TuneportError(", ".join(problem for problem, _ in unused), ", ".join(remedy for _, remedy in unused))


def _read_toml(file: Path | None) -> dict[str, Any]:
    if file is None:
        return {}
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise TuneportError(f"cannot read {file} ({error})", "give a TOML file in UTF-8") from error


def _parse_setting(text: str) -> tuple[str, Any]:
    """Parse `key=value`; the value is TOML where it parses as such, else a string."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise TuneportError(f"--set {text!r} has no key=value", "write for example --set learning_rate=2e-5")
    try:
        return key.strip(), tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return key.strip(), value.strip()
