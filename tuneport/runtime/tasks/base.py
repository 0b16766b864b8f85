"""What the runtime asks of a task."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

from pydantic import BaseModel

from tuneport.runtime.batch import EncodedInput, RowOutputs
from tuneport.schema.artifact import Processing


class RuntimeTask(ABC):
    """What comes in, and what the outputs mean. An instance knows the labels and the processing of one model."""

    parameters: ClassVar[type[BaseModel]]
    """What a request may ask for under `parameters`."""
    per_token: ClassVar[bool] = False
    """Whether the outputs have a value for each token, which padding must be cut from."""

    @abstractmethod
    def __init__(self, labels: tuple[str, ...], processing: Processing, tokenizer: Any) -> None:
        """Keep what parsing and decoding need; `tokenizer` is what the model's family opens."""

    @abstractmethod
    def parse_input(self, value: Any) -> Any:
        """Check one input of a request and bring it into the form that `encode` takes; else an InputError."""

    @abstractmethod
    def encode(self, parsed_inputs: Sequence[Any]) -> list[list[EncodedInput]]:
        """Turn each input into the rows that the model runs: one, or a window each."""

    @abstractmethod
    def decode(
        self, parsed_input: Any, rows: Sequence[EncodedInput], results: Sequence[RowOutputs], parameters: Any
    ) -> Any:
        """Turn the results of an input's rows into its prediction, a JSON value."""

    @abstractmethod
    def is_equivalent(self, prediction: Any, other: Any) -> bool:
        """Tell whether two predictions, made with default parameters, say the same."""

    def request_rows(self, parsed_input: Any, rows: Sequence[EncodedInput], parameters: Any) -> list[EncodedInput]:
        """Return the rows that a request's parameters ask for, given the input's own; `decode` gets their results."""
        return list(rows)

    def encode_request(self, parsed_inputs: Sequence[Any], parameters: BaseModel) -> list[list[EncodedInput]]:
        """Encode a request's inputs with all the rows that its parameters ask for."""
        windows = self.encode(parsed_inputs)
        return [self.request_rows(*each, parameters) for each in zip(parsed_inputs, windows, strict=True)]

    def read_local(self, value: Any) -> Any:
        """Make an input of what the command line was given; a path is one only to tasks that read files."""
        return value
