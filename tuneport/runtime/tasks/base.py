"""The interface of a task at inference time."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

from pydantic import BaseModel

from tuneport.runtime.batch import EncodedInput, RowOutputs
from tuneport.schema.artifact import Processing


class RuntimeTask(ABC):
    """Parses and encodes inputs, and decodes outputs to predictions, for one model's labels and processing."""

    parameters: ClassVar[type[BaseModel]]
    """The `parameters` of a request."""
    per_token: ClassVar[bool] = False
    """Whether outputs have a value for each token, so that padding is removed from them."""
    agreement_means: ClassVar[str] = "inputs with torch's prediction"
    """What `is_equivalent` counts, for messages."""

    @abstractmethod
    def __init__(self, labels: tuple[str, ...], processing: Processing, tokenizer: Any) -> None:
        """`tokenizer` is the one that the model's family opens: a `TextTokenizer` or a `TextProcessor`."""

    @abstractmethod
    def parse_input(self, value: Any) -> Any:
        """Check one input of a request and return it in the form that `encode` takes; raises InputError."""

    @abstractmethod
    def encode(self, parsed_inputs: Sequence[Any]) -> list[list[EncodedInput]]:
        """Return the rows of each input: one, or one for each window."""

    @abstractmethod
    def decode(
        self, parsed_input: Any, rows: Sequence[EncodedInput], outputs: Sequence[RowOutputs], parameters: Any
    ) -> Any:
        """Return the prediction for an input, a JSON value, given the outputs of its rows."""

    @abstractmethod
    def is_equivalent(self, prediction: Any, other: Any) -> bool:
        """Tell whether two predictions with default parameters agree, as the gate counts agreement with torch."""

    @property
    def has_chat_template(self) -> bool:
        """Whether an input may be the messages of a chat, which a template of the model renders."""
        return False

    def request_rows(self, parsed_input: Any, rows: Sequence[EncodedInput], parameters: Any) -> list[EncodedInput]:
        """Return the rows that the parameters require, given an input's own; `decode` receives the outputs of all."""
        return list(rows)

    def encode_request(self, parsed_inputs: Sequence[Any], parameters: BaseModel) -> list[list[EncodedInput]]:
        """Encode a request's inputs, with all the rows that its parameters require."""
        windows = self.encode(parsed_inputs)
        return [self.request_rows(*pair, parameters) for pair in zip(parsed_inputs, windows, strict=True)]

    def decode_request(
        self,
        parsed_inputs: Sequence[Any],
        windows: Sequence[Sequence[EncodedInput]],
        outputs: Sequence[Sequence[RowOutputs]],
        parameters: BaseModel,
    ) -> list[Any]:
        """Decode a request's inputs; a task that decodes many at once faster than one by one overrides it."""
        parts = zip(parsed_inputs, windows, outputs, strict=True)
        return [self.decode(*part, parameters) for part in parts]

    def read_local(self, value: Any) -> Any:
        """Return the input for a value of the command line; tasks whose inputs are files read the path."""
        return value
