"""The space of a search: the values of each setting that varies, checked before any trial."""

import tomllib
from pathlib import Path
from typing import Annotated, Any

import optuna
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from tuneport.errors import TuneportError

from ..arguments import TRAINER_SETTINGS
from ..config import FinetuneConfig, refuse_unused

FIXED = {"fp16", "eval_strategy", "eval_steps", "save_strategy", "save_steps", "logging_steps"}
"""Settings that a search cannot vary: the Trainer reads them once, or trials do not use them."""
SEARCHABLE = TRAINER_SETTINGS - FIXED


class Range(BaseModel):
    """Values of a setting: from `low` to `high`, or one of `choices`."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    low: int | float | None = None
    high: int | float | None = None
    log: bool = False
    """Draw values uniformly on a logarithmic scale."""
    choices: tuple[int | float | str | bool, ...] | None = None

    @model_validator(mode="after")
    def _check_form(self) -> "Range":
        has_bounds = self.low is not None and self.high is not None
        has_any_bound = self.low is not None or self.high is not None or self.log
        if (has_bounds, has_any_bound, bool(self.choices)) not in ((True, True, False), (False, False, True)):
            raise ValueError("give low and high, or choices")
        if has_bounds and not self.low <= self.high:  # type: ignore[operator]
            raise ValueError("low is above high")
        if self.log and not self.low > 0:  # type: ignore[operator]
            raise ValueError("low must be above 0 where log is true")
        return self

    def suggest(self, trial: optuna.Trial, name: str) -> Any:
        """Draw a value for a trial."""
        if self.choices:
            return trial.suggest_categorical(name, self.choices)
        if isinstance(self.low, int) and isinstance(self.high, int):
            return trial.suggest_int(name, self.low, self.high, log=self.log)
        return trial.suggest_float(name, float(self.low or 0), float(self.high or 0), log=self.log)


Space = Annotated[dict[str, Range], Field(min_length=1)]


def read_space(file: Path) -> dict[str, Range]:
    """Read a TOML file of ranges, such as `learning_rate = {low = 1e-5, high = 5e-4, log = true}`."""
    remedy = "write for example: learning_rate = {low = 1e-5, high = 5e-4, log = true}"
    try:
        space = TypeAdapter(Space).validate_python(tomllib.loads(file.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise TuneportError(f"cannot read {file} ({error})", remedy) from error
    except ValidationError as error:
        errors = [(".".join(map(str, each["loc"])), each) for each in error.errors()]
        problems = "; ".join(
            f"{name}: {each['msg'].removeprefix('Value error, ')}" if name else "it varies no setting"
            for name, each in errors
        )
        raise TuneportError(f"{file}: {problems}", remedy) from error
    if unknown := sorted(set(space) - SEARCHABLE):
        raise TuneportError(f"{file} varies {unknown}, which a search cannot", f"vary some of {sorted(SEARCHABLE)}")
    return space


def check_space(config: FinetuneConfig, space: dict[str, Range]) -> dict[str, Range]:
    """Return the space with values of the settings' types; integers stay integers.

    Raises a TuneportError that lists all values which the settings do not take, and all settings of the space that
    have no effect beside the others.
    """
    settings = config.model_dump(exclude_unset=True)
    problems: list[str] = []
    checked = {name: _check_range(name, values, settings, problems) for name, values in space.items()}
    if "num_train_epochs" in space and (config.max_steps > 0 or "max_steps" in space):
        problems.append("num_train_epochs has no effect beside max_steps")
    if "warmup_ratio" in space and "constant" in (space.get("lr_scheduler_type", Range(choices=("",))).choices or ()):
        problems.append("warmup_ratio has no effect under lr_scheduler_type = constant")
    if problems:
        raise TuneportError(f"wrong space: {'; '.join(problems)}", "give values that the settings take")
    return checked


def _check_range(name: str, values: Range, settings: dict[str, Any], problems: list[str]) -> Range:
    """Convert the values of a setting to its type; values that it does not take are added to `problems`."""

    def check(value: Any) -> Any:
        try:
            config = FinetuneConfig.model_validate({**settings, name: value})
            refuse_unused(config)
        except TuneportError as error:
            problems.append(error.problem)
            return value
        except ValidationError as error:
            problems.append(f"{name} = {value!r}: {error.errors()[0]['msg'].lower()}")
            return value
        converted = getattr(config, name)
        if any(isinstance(value, kind) != isinstance(converted, kind) for kind in (bool, str)):
            problems.append(f"{name} = {value!r}: not a {type(converted).__name__}")
        if name == "max_steps" and converted < 1:
            problems.append(f"{name} = {value!r}: no number of steps")
        return converted if isinstance(converted, int) else value

    if values.choices:
        return values.model_copy(update={"choices": tuple(check(value) for value in values.choices)})
    return values.model_copy(update={"low": check(values.low), "high": check(values.high)})
