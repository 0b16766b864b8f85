"""What the tasks share that write text: what a request may ask for, and how tokens become an answer."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Protocol, Self

from pydantic import BaseModel, BeforeValidator, Field, model_validator

from tuneport.runtime.batch import EncodedInput, RowOutputs
from tuneport.runtime.tasks import inputs
from tuneport.runtime.tasks.base import RuntimeTask
from tuneport.schema.artifact import Generation, Processing

MOST_BEAMS = 16
MIN_TEMPERATURE = 1e-3
"""A lower temperature draws the likeliest token anyway, and one that float32 takes for 0 divides by it."""
Stops = Annotated[
    tuple[Annotated[str, Field(min_length=1, max_length=100)], ...],
    Field(max_length=8, strict=False),
    BeforeValidator(lambda value: [value] if isinstance(value, str) else value),
]


class GenerationParameters(inputs.Parameters):
    """What a request may ask for under `parameters`; without any of it the likeliest token is taken each time."""

    max_new_tokens: int | None = Field(default=None, ge=1)
    """The artifact's own when unset; the model's positions are the limit."""
    num_beams: int | None = Field(default=None, ge=1, le=MOST_BEAMS)
    temperature: float | None = Field(default=None, ge=0, le=10)
    """0, or next to it, takes the likeliest token; this and the next three make it a draw."""
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=1)
    seed: int | None = Field(default=None, ge=0, lt=2**63)
    """The same seed and request give the same answer."""
    stop: Stops = ()
    """The answer ends before the first of these."""
    stream: bool = False
    """Send the text as it is written; over HTTP, for one input."""

    @model_validator(mode="after")
    def _no_contradictions(self) -> Self:
        if (self.num_beams or 1) > 1 and (self.draws or self.stream):
            raise ValueError("num_beams > 1 goes with neither sampling nor stream")
        return self

    @property
    def draws(self) -> bool:
        """Whether tokens are drawn at random."""
        drawn = any(value is not None for value in (self.temperature, self.top_p, self.top_k, self.seed))
        return drawn and (self.temperature is None or self.temperature >= MIN_TEMPERATURE)


@dataclass(frozen=True)
class SamplingParams:
    """How a text is written. Rows share a batch only where they agree in it."""

    max_new_tokens: int
    min_new_tokens: int = 0
    num_beams: int = 1
    temperature: float | None = None
    """None: the likeliest token is taken, nothing is drawn."""
    top_p: float = 1.0
    top_k: int = 0
    """0: all tokens may be drawn."""
    seed: int | None = None
    stop: tuple[str, ...] = ()

    @classmethod
    def of(cls, parameters: GenerationParameters, generation: Generation, room: int) -> Self:
        """Settle what a request leaves open; `room` is what the model's positions leave for new tokens."""
        draws = parameters.draws
        # Beams are no draw, and what is streamed cannot be taken back.
        is_plain = draws or parameters.stream or parameters.temperature is not None
        return cls(
            max_new_tokens=max(1, min(parameters.max_new_tokens or generation.max_new_tokens, room)),
            num_beams=1 if is_plain else parameters.num_beams or generation.num_beams,
            temperature=(1.0 if parameters.temperature is None else parameters.temperature) if draws else None,
            top_p=parameters.top_p or 1.0,
            top_k=parameters.top_k or 0,
            seed=parameters.seed if draws else None,
            stop=parameters.stop,
        )


class TokenCallback(Protocol):
    """Hears a text while it is written, in the engine's thread."""

    cancelled: bool
    """Set it, and the text ends with the next token."""

    def on_token(self, token: int) -> None:
        """Take the next token."""


@dataclass(frozen=True, slots=True)
class Prompt(EncodedInput):
    """An input that is to be answered with text."""

    sampling: SamplingParams = SamplingParams(1)
    features: Any = None
    """Of sound: log-mel spectrogram, float32 (mels, frames)."""
    scored: tuple[int, ...] = ()
    """Prompt and a known answer, whose tokens are to be judged."""
    scored_from: int = 0
    """Where the answer begins in `scored`."""
    callback: TokenCallback | None = None


class Processor(Protocol):
    """Text to tokens and back; `tuneport.runtime.processor` has it, over transformers."""

    def encode(self, texts: Sequence[str], *, special: bool = True) -> list[tuple[list[int], bool]]:
        """Return each text's token ids and whether it was cut."""

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens, without special ones."""


class GenerationTask(RuntimeTask):
    """Turns tokens into answers; the tasks say how inputs become prompts."""

    parameters: ClassVar[type[BaseModel]] = GenerationParameters
    per_token: ClassVar = False
    is_stripped: ClassVar = True
    """Whether white space around an answer is an artefact of the tokenizer."""

    def __init__(self, labels: tuple[str, ...], processing: Processing, tokenizer: Any) -> None:
        """Keep what reading and decoding need; `tokenizer` is a `tuneport.runtime.processor.Processor`."""
        assert processing.generation is not None
        self.generation = processing.generation
        self.processing = processing
        self.processor = tokenizer

    def prompt(self, ids: list[int], *, truncated: bool, **more: Any) -> Prompt:
        """Make a row that is answered as the gate has it: the likeliest token each time."""
        greedy = self.sampling_params(GenerationParameters(num_beams=1), len(ids))
        return Prompt(ids, [0] * len(ids), truncated, group=greedy, sampling=greedy, **more)

    def request_rows(
        self, parsed_input: Any, rows: Sequence[EncodedInput], parameters: GenerationParameters
    ) -> list[EncodedInput]:
        """Return the prompts with the sampling that a request asks for.

        With a seed a prompt is generated alone; it waits in a group of its own, and is dropped with its client.
        """
        asked: list[EncodedInput] = []
        for row in rows:
            assert isinstance(row, Prompt)
            sampling = self.sampling_params(parameters, len(row))
            group = sampling if sampling.seed is None else object()
            asked.append(replace(row, group=group, sampling=sampling))
        return asked

    def sampling_params(self, parameters: GenerationParameters, taken: int) -> SamplingParams:
        """Resolve how a prompt of `taken` tokens is answered."""
        return SamplingParams.of(parameters, self.generation, self.remaining_positions(taken))

    def remaining_positions(self, taken: int) -> int:
        """Count the positions that are left for new tokens; an encoder's tokens take none."""
        return self.generation.positions

    def decode(
        self, given: Any, rows: Sequence[EncodedInput], results: Sequence[RowOutputs], parameters: GenerationParameters
    ) -> Any:
        """Answer `{"text", "finish_reason"}`; `"length"` means that more would have come."""
        row = rows[0]
        assert isinstance(row, Prompt)
        tokens = [int(token) for token in results[0]["tokens"]]
        text, stopped = self.text_of(tokens, row.sampling.stop)
        reason = "stop" if stopped or len(tokens) < row.sampling.max_new_tokens else "length"
        return {"text": text, "finish_reason": reason, **({"truncated": True} if row.truncated else {})}

    def is_equivalent(self, prediction: Any, other: Any) -> bool:
        """Compare texts, to the letter."""
        return bool(prediction["text"] == other["text"])

    def text_of(self, tokens: Sequence[int], stop: Sequence[str]) -> tuple[str, bool]:
        """Return the text of an answer's tokens, cut before the first stop, and whether there was one."""
        text = self.processor.decode(tokens)
        places = [at for at in (text.find(each) for each in stop) if at >= 0]
        text = text[: min(places)] if places else text
        return (text.strip() if self.is_stripped else text), bool(places)


class TextToText(GenerationTask):
    """Translation and summarization: text in, text out."""

    def parse_input(self, value: Any) -> str:
        """Check one input: a string, or an object with `text`."""
        text = inputs.read_text(value, accepts_pairs=False)
        assert isinstance(text, str)
        return text

    def encode(self, texts: Sequence[str]) -> list[list[EncodedInput]]:
        """Return a prompt for each text, cut at the model's maximum."""
        encoded = self.processor.encode([self.generation.prefix + text for text in texts])
        return [[self.prompt(ids, truncated=cut)] for ids, cut in encoded]


def with_callback(rows: Sequence[EncodedInput], callback: TokenCallback) -> list[EncodedInput]:
    """Return prompts that tell `callback` each token as it is generated."""
    prompts = [row for row in rows if isinstance(row, Prompt)]
    return [replace(row, callback=callback) for row in prompts]
