"""Sampling parameters of generative models: those of a request, and those that a row runs with."""

from dataclasses import dataclass
from typing import Annotated, Self

from pydantic import BeforeValidator, FailFast, Field, model_validator

from tuneport.runtime.tasks import inputs
from tuneport.schema.artifact import Generation

MAX_BEAMS = 16
MIN_TEMPERATURE = 1e-3
"""A lower temperature selects the likeliest token anyway, and one that float32 rounds to 0 divides by zero."""
Stops = Annotated[
    tuple[Annotated[str, Field(min_length=1, max_length=100)], ...],
    FailFast(),  # a million wrong ones must not become a million messages
    Field(max_length=8, strict=False),
    BeforeValidator(lambda value: [value] if isinstance(value, str) else value),
]


class GenerationParameters(inputs.Parameters):
    """The `parameters` of a request; by default, decoding is greedy."""

    max_new_tokens: int | None = Field(default=None, ge=1)
    """By default the artifact's; the model's positions are the limit."""
    num_beams: int | None = Field(default=None, ge=1, le=MAX_BEAMS)
    temperature: float | None = Field(default=None, ge=0, le=10)
    """0, or nearly 0, means greedy decoding; otherwise this and each of the next three turn sampling on."""
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=1)
    seed: int | None = Field(default=None, ge=0, lt=2**63)
    """The same request with the same seed has the same answer."""
    stop: Stops = ()
    """Strings before whose first occurrence the answer ends."""
    stream: bool = False
    """Send the text while it is generated; over HTTP, for a single input."""

    @model_validator(mode="after")
    def _no_contradictions(self) -> Self:
        if (self.num_beams or 1) > 1 and (self.is_sampled or self.stream):
            raise ValueError("num_beams > 1 cannot be combined with sampling or stream")
        return self

    @property
    def is_sampled(self) -> bool:
        """Whether tokens are sampled at random."""
        is_requested = any(value is not None for value in (self.temperature, self.top_p, self.top_k, self.seed))
        return is_requested and (self.temperature is None or self.temperature >= MIN_TEMPERATURE)


@dataclass(frozen=True)
class SamplingParams:
    """How a text is generated. Only rows with the same ones share a batch."""

    max_new_tokens: int
    min_new_tokens: int = 0
    num_beams: int = 1
    temperature: float | None = None
    """None: greedy decoding or beam search, without sampling."""
    top_p: float = 1.0
    top_k: int = 0
    """0: all tokens may be sampled."""
    seed: int | None = None
    stop: tuple[str, ...] = ()

    @classmethod
    def of(cls, parameters: GenerationParameters, generation: Generation, max_new_tokens: int) -> Self:
        """Complete a request's parameters with defaults; `max_new_tokens` is what the model's positions allow."""
        is_sampled = parameters.is_sampled
        # Beam search does not sample, and it may revise tokens that a stream has sent.
        has_one_beam = is_sampled or parameters.stream or parameters.temperature is not None
        return cls(
            max_new_tokens=max(1, min(parameters.max_new_tokens or generation.max_new_tokens, max_new_tokens)),
            num_beams=1 if has_one_beam else parameters.num_beams or generation.num_beams,
            temperature=(1.0 if parameters.temperature is None else parameters.temperature) if is_sampled else None,
            top_p=parameters.top_p or 1.0,
            top_k=parameters.top_k or 0,
            seed=parameters.seed if is_sampled else None,
            stop=parameters.stop,
        )
