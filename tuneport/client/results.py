"""What calls return."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, overload


@dataclass(frozen=True, slots=True)
class ModelName:
    """The model that answered."""

    name: str
    version: str
    variant: str | None
    """None over gRPC: the Open Inference Protocol has no field for it."""


@dataclass(frozen=True, slots=True)
class Predictions(Sequence[Any]):
    """A prediction for each input, in order: a sequence of the JSON values that `POST /predict` answers."""

    values: list[Any]
    model: ModelName
    request_id: str
    """Under which the service logged the request."""

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> list[Any]: ...
    def __getitem__(self, index: int | slice) -> Any:
        """Return the prediction for the input at `index`, or a list of them for a slice."""
        return self.values[index]

    def __len__(self) -> int:
        """Return the number of predictions."""
        return len(self.values)

    def __iter__(self) -> Iterator[Any]:
        """Iterate over the predictions."""
        return iter(self.values)


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """A version that the service has loaded, or that its model repository has."""

    name: str
    version: str
    state: str
    """READY, LOADING or UNAVAILABLE."""
    reason: str
    """Why it is not ready, or which requests it gets beside the version that serves; empty for that one."""


@dataclass(frozen=True, slots=True)
class TensorMetadata:
    """A tensor of the Open Inference Protocol."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    """-1 for any size."""


@dataclass(frozen=True, slots=True)
class ModelMetadata:
    """A model as the Open Inference Protocol describes it."""

    name: str
    versions: tuple[str, ...]
    inputs: tuple[TensorMetadata, ...]
    outputs: tuple[TensorMetadata, ...]
