"""Settings of a fine-tuning run: TOML file, `--set key=value` and flags, in that order of growing weight."""

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from export.files import TuneportError
from export.manifest import Frozen, Task


class FinetuneConfig(Frozen):
    """One run. Names that `transformers.TrainingArguments` has mean here what they mean there."""

    task: Task
    model: str
    """A folder, a name on the hub, or `minilm-l6`, the embedded encoder."""
    data: str
    """A folder with train/validation/test files, one file that is split with the seed, or a name on the hub."""
    columns: dict[str, str] = Field(default_factory=dict)
    """Column of the task → column of the data, where they differ."""
    max_length: int = Field(default=128, ge=8)
    """Tokens of one input, special tokens included; longer texts are cut."""
    trust_remote_code: bool = False
    """Run Python code that the model's repository brings."""

    num_train_epochs: float = Field(default=3, gt=0)
    max_steps: int = -1
    """Optimizer steps; overrides num_train_epochs when positive."""
    learning_rate: float = Field(default=5e-5, gt=0)
    per_device_train_batch_size: int = Field(default=16, ge=1)
    per_device_eval_batch_size: int = Field(default=32, ge=1)
    gradient_accumulation_steps: int = Field(default=1, ge=1)
    weight_decay: float = Field(default=0.01, ge=0)
    max_grad_norm: float = Field(default=1.0, ge=0)
    warmup_ratio: float = Field(default=0.1, ge=0, le=1)
    lr_scheduler_type: Literal["linear", "cosine", "constant", "constant_with_warmup"] = "linear"
    label_smoothing_factor: float = Field(default=0.0, ge=0, lt=1)
    group_by_length: bool = True
    """Batch texts of like length together, which pads less."""
    bf16: bool | None = None
    """bfloat16 autocast; unset: where the hardware multiplies it."""
    seed: int = 42


def load_config(
    file: Path | None = None, settings: Sequence[str] = (), flags: Mapping[str, Any] | None = None
) -> FinetuneConfig:
    """Merge a TOML file, `key=value` settings and flags that are not None; all errors come at once."""
    values = {**_read_toml(file), **dict(_read_setting(each) for each in settings)}
    values |= {key: value for key, value in (flags or {}).items() if value is not None}
    try:
        return FinetuneConfig.model_validate(values)
    except ValidationError as error:
        wrong = "; ".join(_explain(each) for each in error.errors())
        raise TuneportError(f"wrong settings: {wrong}", "`tuneport finetune --help` lists them") from error


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
    return f"{path} = {error['input']!r}: {error['msg'].lower()}"
