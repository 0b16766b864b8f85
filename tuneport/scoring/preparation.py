"""What is done to a chunk before the engine has it: its rows are read, parsed and tokenized."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from tuneport.errors import InputError
from tuneport.runtime.batch import EncodedInput
from tuneport.runtime.tasks.base import RuntimeTask
from tuneport.scoring.plan import Plan
from tuneport.scoring.rows import Chunk, ChunkRows, Row, Source


@dataclass(frozen=True)
class PreparedChunk:
    """A chunk whose rows are encoded."""

    chunk: Chunk
    rows: ChunkRows
    inputs: list[tuple[Row, Any, list[EncodedInput]]]
    """Rows with their parsed inputs and encoded windows."""
    rejected: dict[int, str]
    """Number of a row → why it cannot be scored."""


class ChunkEncoder:
    """Reads and encodes chunks of a file for one model."""

    def __init__(self, plan: Plan, source: Source, task: RuntimeTask, parameters: BaseModel) -> None:
        """Keep what decides the rows of each input."""
        self._plan = plan
        self._source = source
        self._task = task
        self._parameters = parameters

    def prepare(self, chunk: Chunk) -> PreparedChunk:
        """Read and encode a chunk; rows that cannot be are rejected with the reason."""
        names = self._plan.columns.of(self._source.columns) if self._source.columns is not None else None
        rows = self._source.read(chunk, names)
        rejected: dict[int, str] = {}
        parsed = self._parse(rows, rejected)
        return PreparedChunk(chunk, rows, list(self._encode_together(parsed, rejected)), rejected)

    def _parse(self, rows: ChunkRows, rejected: dict[int, str]) -> list[tuple[Row, Any]]:
        parsed = []
        for row in rows.rows:
            problem = row.problem or _collision(row, self._plan)
            try:
                if problem is None:
                    parsed.append((row, self._task.parse_input(self._plan.columns.input_of(row.fields, self._task))))
            except InputError as error:
                problem = f"{error.problem}; {error.remedy}"
            if problem is not None:
                rejected[row.number] = problem
        return parsed

    def _encode_together(
        self, parsed: Sequence[tuple[Row, Any]], rejected: dict[int, str]
    ) -> Iterator[tuple[Row, Any, list[EncodedInput]]]:
        """Encode inputs in one call; if that fails, one by one."""
        try:
            encoded = self._task.encode_request([value for _, value in parsed], self._parameters) if parsed else []
        except Exception as error:  # of any tokenizer
            if len(parsed) == 1:
                rejected[parsed[0][0].number] = reason_of(error)
                return
            for each in parsed:
                yield from self._encode_together([each], rejected)
            return
        yield from ((row, value, windows) for (row, value), windows in zip(parsed, encoded, strict=True))


def reason_of(error: Exception) -> str:
    """Return why a row cannot be scored, in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def _collision(row: Row, plan: Plan) -> str | None:
    """Return the problem of a row that already has the column of the prediction."""
    names = plan.layout.columns if plan.layout.columns is not None else row.fields
    name = plan.layout.prediction
    return f"the row has a column {name!r} already; give --prediction-column" if name in names else None
