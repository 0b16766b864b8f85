"""What the generative tasks share: their rows, and the decoding of generated tokens."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from pydantic import BaseModel

from tuneport.runtime.batch import EncodedInput, RowOutputs
from tuneport.runtime.tasks import inputs
from tuneport.runtime.tasks.base import RuntimeTask
from tuneport.runtime.tasks.sampling import GenerationParameters, SamplingParams
from tuneport.schema.artifact import Processing

if TYPE_CHECKING:  # it imports transformers
    from tuneport.runtime.processor import TextProcessor

ONE_TOKEN = SamplingParams(max_new_tokens=1)


class TokenCallback(Protocol):
    """Receives the tokens of a text while it is generated, in the engine's thread."""

    cancelled: bool
    """Set to True, it ends the text at the next token."""

    def on_token(self, token: int) -> None:
        """Receive the next token."""


@dataclass(frozen=True, slots=True)
class Prompt(EncodedInput):
    """A row of a generative model."""

    sampling: SamplingParams = ONE_TOKEN
    features: Any = None
    """Log-mel spectrogram of a recording, float32 (mels, frames)."""
    scored: tuple[int, ...] = ()
    """Tokens of the prompt and a reference answer, whose likelihood is computed; empty without one."""
    scored_from: int = 0
    """Index of the reference answer's first token in `scored`."""
    callback: TokenCallback | None = None


class GenerationTask(RuntimeTask):
    """Decodes generated tokens to text; its subclasses encode their inputs as prompts."""

    parameters: ClassVar[type[BaseModel]] = GenerationParameters
    per_token: ClassVar = False
    is_stripped: ClassVar = True
    """Whether white space around a text comes from the tokenizer and is removed."""

    def __init__(self, labels: tuple[str, ...], processing: Processing, tokenizer: "TextProcessor") -> None:
        """Keep what encoding and decoding need."""
        assert processing.generation is not None
        self.generation = processing.generation
        self.processing = processing
        self.processor = tokenizer

    def prompt(self, ids: list[int], *, truncated: bool, **fields: Any) -> Prompt:
        """Return a row with greedy decoding, as the gate uses it; `fields` are further ones of `Prompt`."""
        greedy = self.sampling_params(GenerationParameters(num_beams=1), len(ids))
        return Prompt(ids, [0] * len(ids), truncated, group=greedy, sampling=greedy, **fields)

    def request_rows(
        self, parsed_input: Any, rows: Sequence[EncodedInput], parameters: GenerationParameters
    ) -> list[EncodedInput]:
        """Return the prompts with the request's sampling parameters.

        A prompt with a seed is a group of its own: it runs alone, and waits and is cancelled alone.
        """
        prompts: list[EncodedInput] = []
        for row in rows:
            assert isinstance(row, Prompt)
            sampling = self.sampling_params(parameters, len(row))
            group = sampling if sampling.seed is None else object()
            prompts.append(replace(row, group=group, sampling=sampling))
        return prompts

    def sampling_params(self, parameters: GenerationParameters, prompt_tokens: int) -> SamplingParams:
        """Return the sampling parameters for a prompt of `prompt_tokens` tokens."""
        return SamplingParams.of(parameters, self.generation, self.remaining_positions(prompt_tokens))

    def remaining_positions(self, prompt_tokens: int) -> int:
        """Return the decoder's positions for new tokens; the prompt of an encoder-decoder takes none of them."""
        return self.generation.positions

    def decode(
        self,
        parsed_input: Any,
        rows: Sequence[EncodedInput],
        outputs: Sequence[RowOutputs],
        parameters: GenerationParameters,
    ) -> Any:
        """Return `{"text", "finish_reason"}`; the reason is "length" where the maximum of new tokens was reached."""
        row = rows[0]
        assert isinstance(row, Prompt)
        tokens = [int(token) for token in outputs[0]["tokens"]]
        text, is_stopped = self.text_of(tokens, row.sampling.stop)
        reason = "stop" if is_stopped or len(tokens) < row.sampling.max_new_tokens else "length"
        return {"text": text, "finish_reason": reason, **({"truncated": True} if row.truncated else {})}

    def is_equivalent(self, prediction: Any, other: Any) -> bool:
        """Tell whether the texts are the same."""
        return bool(prediction["text"] == other["text"])

    def text_of(self, tokens: Sequence[int], stop: Sequence[str]) -> tuple[str, bool]:
        """Return the text of tokens up to the first stop string, and whether it has one."""
        text = self.processor.decode(tokens)
        stops = [position for position in (text.find(each) for each in stop) if position >= 0]
        text = text[: min(stops)] if stops else text
        return (text.strip() if self.is_stripped else text), bool(stops)


class TextToText(GenerationTask):
    """Translation and summarization: text in, text out."""

    def parse_input(self, value: Any) -> str:
        """Check one input: a string, or an object with `text`."""
        text = inputs.read_text(value, accepts_pairs=False)
        assert isinstance(text, str)
        return text

    def encode(self, parsed_inputs: Sequence[str]) -> list[list[EncodedInput]]:
        """Return a row for each text, truncated to the model's maximum."""
        encoded = self.processor.encode([self.generation.prefix + text for text in parsed_inputs])
        return [[self.prompt(ids, truncated=truncated)] for ids, truncated in encoded]


def with_callback(rows: Sequence[EncodedInput], callback: TokenCallback) -> list[EncodedInput]:
    """Return the prompts with a callback that receives each token as it is generated."""
    prompts = [row for row in rows if isinstance(row, Prompt)]
    return [replace(row, callback=callback) for row in prompts]
