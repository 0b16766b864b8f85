"""Writes the scored rows of a chunk, and joins the parts to the output. Input columns keep their values and types."""

import base64
import csv
import io
import json
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

from tuneport.errors import DataError
from tuneport.schema.artifact import Manifest
from tuneport.scoring.rows import ChunkRows, Row
from tuneport.tasks import task_spec

Format = Literal["jsonl", "csv", "tsv", "parquet"]
Scored = Sequence[tuple[Row, Any]]
"""The rows that were scored, with their predictions."""
NUMBERS = ("score",)
"""Parts of a prediction that are numbers; the others are strings."""


@dataclass(frozen=True)
class Layout:
    """The columns of the output."""

    format: Format
    copies: bool
    """Whether the output has the format of the input."""
    columns: tuple[str, ...] | None
    """Columns of the input that it keeps; None for all those of each row."""
    is_whole: bool
    """Whether it keeps all columns of the input."""
    prediction: str
    """Column of the prediction, in tables as JSON."""
    parts: tuple[str, ...]
    """Of tables: fields of a prediction that get a column of their own, too."""
    delimiter: str = ","

    @property
    def added(self) -> tuple[str, ...]:
        """The columns that are added to those of the input."""
        if self.format == "jsonl":
            return (self.prediction,)
        return (*(f"{self.prediction}_{part}" for part in self.parts), self.prediction)

    def header(self) -> list[str]:
        """Return all columns of a table."""
        return [*(self.columns or ()), *self.added]


def prediction_parts(manifest: Manifest, parameters: dict[str, Any]) -> tuple[str, ...]:
    """Return the fields that every prediction of an artifact has, if it is one object."""
    if parameters.get("top_k") is not None or manifest.processing.problem_type == "multi_label_classification":
        return ()
    if task_spec(manifest.task).is_generative:
        return ("text",)
    fields = {"text-classification": ("label", "score"), "regression": ("score",)}
    return fields.get(manifest.task, ("answer", "score") if manifest.task == "question-answering" else ())


def write_part(path: Path, chunk: ChunkRows, scored: Scored, layout: Layout) -> None:
    """Write a chunk's scored rows, in order."""
    if layout.format == "parquet":
        _write_parquet(path, chunk, scored, layout)
        return
    lines = _json_lines if layout.format == "jsonl" else _table_lines
    with path.open("w", encoding="utf-8", newline="") as file:
        file.writelines(lines(chunk, scored, layout))


def join_parts(parts: Iterable[Path], out: IO[bytes], layout: Layout) -> None:
    """Write the parts of all chunks one behind the other, as one file."""
    if layout.format == "parquet":
        _join_parquet(parts, out)
        return
    if layout.format != "jsonl":
        out.write(_cells(layout.header(), layout.delimiter).encode())
    for part in parts:
        with part.open("rb") as file:
            shutil.copyfileobj(file, out, 2**20)


def json_line(value: Any) -> str:
    """Return a value as JSON, in one line; bytes become base64, other types of Parquet their text."""
    line = json.dumps(value, ensure_ascii=False, default=_json_value)
    try:
        line.encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which only an escape can hold
        line = json.dumps(value, default=_json_value)
    return line + "\n"


def _json_lines(chunk: ChunkRows, scored: Scored, layout: Layout) -> Iterator[str]:
    for row, prediction in scored:
        if layout.copies and layout.is_whole:  # exactly as it was: numbers, escapes, order
            added = json.dumps({layout.prediction: prediction}, ensure_ascii=False)
            yield f"{row.raw[:-1].rstrip()}, {added[1:]}\n"
            continue
        whole = chunk.whole(row)
        names = whole if layout.columns is None else [name for name in layout.columns if name in whole]
        yield json_line({**{name: whole[name] for name in names}, layout.prediction: prediction})


def _table_lines(chunk: ChunkRows, scored: Scored, layout: Layout) -> Iterator[str]:
    for row, prediction in scored:
        # Columns without a name can only be copied by their position.
        kept = row.raw if layout.is_whole else [row.fields[name] for name in layout.columns or ()]
        added = [*_parts(prediction, layout), json.dumps(prediction, ensure_ascii=False)]
        yield _cells([*kept, *added], layout.delimiter)


def _cells(values: Sequence[Any], delimiter: str) -> str:
    line = io.StringIO()
    csv.writer(line, delimiter=delimiter, lineterminator="\n").writerow(values)
    return line.getvalue()


def _parts(prediction: Any, layout: Layout) -> list[Any]:
    values = [prediction.get(part) if isinstance(prediction, dict) else None for part in layout.parts]
    # A regression with several targets has a list of scores, which only the JSON shows.
    return [value if isinstance(value, str | int | float) else None for value in values]


def _write_parquet(path: Path, chunk: ChunkRows, scored: Scored, layout: Layout) -> None:
    import pyarrow
    from pyarrow import parquet

    if chunk.table is not None:
        table = chunk.table.select(list(layout.columns or ()))
        table = table.take(pyarrow.array([row.raw for row, _ in scored], pyarrow.int64()))
    else:
        columns = {name: [row.fields[name] for row, _ in scored] for name in layout.columns or ()}
        table = pyarrow.table(columns, pyarrow.schema([(name, pyarrow.string()) for name in columns]))
    for index, part in enumerate(layout.parts):
        values = [_parts(prediction, layout)[index] for _, prediction in scored]
        kind = pyarrow.float64() if part in NUMBERS else pyarrow.string()
        table = table.append_column(f"{layout.prediction}_{part}", pyarrow.array(values, kind))
    texts = [json.dumps(prediction, ensure_ascii=False) for _, prediction in scored]
    parquet.write_table(table.append_column(layout.prediction, pyarrow.array(texts, pyarrow.string())), path)


def _join_parquet(parts: Iterable[Path], out: IO[bytes]) -> None:
    from pyarrow import parquet

    writer = None
    for part in parts:
        table = parquet.read_table(part, partitioning=None)
        writer = writer or parquet.ParquetWriter(out, table.schema)
        writer.write_table(table)
    if writer:
        writer.close()


def _json_value(value: Any) -> str:
    return base64.b64encode(value).decode() if isinstance(value, bytes) else str(value)


def make_layout(
    format: Format, *, copies: bool, available: tuple[str, ...] | None, keep: tuple[str, ...], prediction: str
) -> Layout:
    """Return the layout of an output, without parts; raises DataError for unknown and colliding columns."""
    if available is not None and (unknown := [name for name in keep if name not in available]):
        raise DataError(f"the input has no column {unknown[0]!r}, only {', '.join(available)}", "correct --keep")
    columns = keep or available
    if columns is not None and format == "parquet" and not copies:  # which has no columns without a name
        columns = tuple(name for name in columns if name)
    return Layout(format, copies, columns, not keep, prediction, ())
