"""Settings of a fine-tuning run: TOML file, `--set key=value` and flags, in that order of growing weight."""

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from export.files import TuneportError
from export.machine import Frozen
from export.manifest import Task
from finetune.uses import unused

Share = Field(default=0.0, ge=0, lt=1)


class FinetuneConfig(Frozen):
    """One run. Names that `transformers.TrainingArguments` or peft have mean here what they mean there."""

    task: Task
    model: str
    """A folder, a name on the hub, or `minilm-l6`, the embedded encoder."""
    data: str
    """A folder with train/validation/test files, one file that is split with the seed, or a name on the hub."""
    columns: dict[str, str] = Field(default_factory=dict)
    """Column of the task → column of the data, where they differ."""
    trust_remote_code: bool = False
    """Run Python code that the model's repository brings."""
    seed: int = Field(default=42, ge=0, lt=2**32)

    # Inputs
    max_length: int = Field(default=128, ge=8)
    """Tokens of one input, special tokens included; longer texts are cut (question answering strides instead)."""
    doc_stride: int = Field(default=32, ge=0)
    """Question answering: tokens that neighbouring windows of a long context share."""
    max_target_length: int = Field(default=64, ge=2)
    """Tokens of a target: translation, summarization, speech recognition."""
    num_beams: int = Field(default=1, ge=1)
    """Beams when a translation, summary or transcript is written, in evaluation and by the checkpoint's default."""
    source_prefix: str = ""
    """Translation, summarization: put before every source, as T5 wants it: "translate German to English: "."""
    source_language: str = ""
    """Translation: the source's code, for tokenizers that mark languages (mBART "de_DE", NLLB "deu_Latn")."""
    target_language: str = ""
    """The target's code for them; for a multilingual Whisper the language spoken ("de")."""
    chat_template: str | None = None
    """Text generation from `messages`: a file with a Jinja chat template; unset: the tokenizer's own."""

    # What is trained
    strategy: Literal["full", "head", "last_layers", "gradual", "lora", "adalora", "ia3", "prefix", "adapter"] = "full"
    """full: everything; head: the new head; last_layers: it and `num_last_layers` below; gradual: one layer group
    more each epoch, from the top; lora, adalora, ia3: merged into the weights in the end; prefix, adapter: saved
    beside them."""
    num_last_layers: int = Field(default=2, ge=1)
    layer_lr_decay: float = Field(default=1.0, gt=0, le=1)
    """Discriminative rates: each layer group learns at this fraction of the rate of the group above."""
    lora_r: int = Field(default=8, ge=1)
    lora_alpha: int = Field(default=16, ge=1)
    lora_dropout: float = Share
    target_modules: tuple[str, ...] = ()
    """Which linear layers get LoRA or IA3; unset: peft's choice for the architecture, else all."""
    num_virtual_tokens: int = Field(default=16, ge=1)
    """Length of the prefix of prefix tuning."""
    adapter_reduction_factor: float = Field(default=16, ge=1)
    """Bottleneck adapters: how many times narrower than the model they are."""
    pooling: Literal["default", "cls", "mean", "attention"] = "default"
    """How classification and regression turn token states into one vector; default: as the architecture does."""

    # How it is trained
    num_train_epochs: float = Field(default=3, gt=0)
    max_steps: int = Field(default=-1, ge=-1)
    """Optimizer steps; overrides num_train_epochs when positive."""
    optim: Literal["adamw_torch", "adam", "adagrad", "sgd", "adafactor"] = "adamw_torch"
    learning_rate: float = Field(default=5e-5, gt=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Of sgd."""
    per_device_train_batch_size: int = Field(default=16, ge=1)
    per_device_eval_batch_size: int = Field(default=32, ge=1)
    gradient_accumulation_steps: int = Field(default=1, ge=1)
    gradient_checkpointing: bool = False
    weight_decay: float = Field(default=0.01, ge=0)
    """Not applied to biases and norms."""
    max_grad_norm: float = Field(default=1.0, ge=0)
    warmup_ratio: float = Field(default=0.1, ge=0, le=1)
    lr_scheduler_type: Literal["linear", "cosine", "constant", "constant_with_warmup"] = "linear"
    dropout: float | None = Field(default=None, ge=0, lt=1)
    """Of every dropout layer; unset: as the base model has it."""
    label_smoothing_factor: float = Share
    class_weights: Literal["none", "balanced"] = "none"
    """balanced: a class counts in inverse proportion to its rows."""
    adversarial_epsilon: float = Field(default=0.0, ge=0)
    """FGM: after each step's gradient, a second one on embeddings moved this far along it; 0 is off."""
    group_by_length: bool = True
    """Batch texts of like length together, which pads less."""
    bf16: bool | None = None
    """bfloat16 autocast; unset: where the hardware multiplies it."""
    fp16: bool = False

    # More data
    augment_swap: float = Share
    """Share of a text's words that change places with another, in one more copy of each train row."""
    augment_delete: float = Share
    """Share of a text's words that are left out, in one more copy of each train row."""
    augment_synonyms: float = Share
    """Share of a text's words that a synonym replaces, in one more copy of each train row."""
    synonyms: str | None = None
    """Lexicon for it: JSON, word → list of synonyms."""
    back_translation: tuple[str, str] | None = None
    """Two translation artifacts, there and back: one more copy of each train row, as it comes back."""
    pseudo_label_data: str | None = None
    """Unlabelled data: after a first training its confident predictions join train, and a second one follows."""
    pseudo_label_threshold: float = Field(default=0.9, gt=0, le=1)
    rehearsal_data: str | None = None
    """Old data, some of whose train rows join train, so that continued training does not forget them."""
    rehearsal_ratio: float = Field(default=0.25, gt=0)
    """Old rows for each new one."""

    # Watching
    eval_strategy: Literal["no", "epoch", "steps"] = "epoch"
    eval_steps: int | None = Field(default=None, ge=1)
    save_strategy: Literal["no", "epoch", "steps"] = "epoch"
    save_steps: int = Field(default=500, ge=1)
    logging_steps: int = Field(default=10, ge=1)
    load_best_model_at_end: bool = False
    metric_for_best_model: str | None = None
    """A metric of the task, or `loss`; unset: the task's own."""
    early_stopping_patience: int | None = Field(default=None, ge=1)
    """Stop after so many evaluations without a better metric, and restore the best checkpoint."""
    report_to: tuple[Literal["tensorboard", "wandb", "mlflow"], ...] = ("tensorboard",)

    @field_validator("report_to", "target_modules", "back_translation", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        """Take `a` and `a,b`, which `--set` gives as strings, for lists; `none` is what transformers calls no one."""
        if not isinstance(value, str):
            return value
        return () if value == "none" else tuple(each.strip() for each in value.split(",") if each.strip())

    @model_validator(mode="after")
    def _consistent(self) -> Self:
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
        if self.augment_synonyms and not self.synonyms:
            raise ValueError("augment_synonyms needs synonyms, the path of a lexicon")
        return self

    @property
    def restores_best(self) -> bool:
        """Whether the best checkpoint is restored in the end."""
        return self.load_best_model_at_end or self.early_stopping_patience is not None


def load_config(
    file: Path | None = None, settings: Sequence[str] = (), flags: Mapping[str, Any] | None = None
) -> FinetuneConfig:
    """Merge a TOML file, `key=value` settings and flags that are not None; all errors come at once."""
    values = {**_read_toml(file), **dict(_read_setting(each) for each in settings)}
    values |= {key: value for key, value in (flags or {}).items() if value is not None}
    try:
        config = FinetuneConfig.model_validate(values)
    except ValidationError as error:
        wrong = "; ".join(_explain(each) for each in error.errors())
        raise TuneportError(f"wrong settings: {wrong}", "docs/finetuning.md lists them") from error
    refuse_unused(config)
    return config


def refuse_unused(config: FinetuneConfig, by: tuple[str, ...] = ("task", "strategy", "optim")) -> None:
    """Raise a TuneportError for settings, not at their default, that the run would ignore because of one in `by`."""
    changed = config.model_dump(exclude_defaults=True)
    if found := list(unused(changed, config, by)):
        raise TuneportError(", ".join(problem for problem, _ in found), ", ".join(remedy for _, remedy in found))


def _read_toml(file: Path | None) -> dict[str, Any]:
    if file is None:
        return {}
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise TuneportError(f"cannot read {file} ({error})", "give a TOML file in UTF-8") from error


def _read_setting(text: str) -> tuple[str, Any]:
    """Read `key=value`; the value is TOML where it parses as such, else a string."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise TuneportError(f"--set {text!r} has no key=value", "write for example --set learning_rate=2e-5")
    try:
        return key.strip(), tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return key.strip(), value.strip()


def _explain(error: Mapping[str, Any]) -> str:
    path = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        return f"{path} is not a setting"
    if error["type"] == "missing":
        return f"{path} is missing"
    if not path:
        return str(error["msg"]).removeprefix("Value error, ")
    return f"{path} = {error['input']!r}: {error['msg'].lower()}"
