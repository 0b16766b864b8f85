"""Opens an input file by its name, and chooses the format of the output."""

from pathlib import Path

from tuneport.errors import DataError, TuneportError
from tuneport.scoring.json_lines import JsonLines
from tuneport.scoring.rows import Source
from tuneport.scoring.tables import Table
from tuneport.scoring.writers import Format

FORMATS: dict[str, Format] = {".jsonl": "jsonl", ".csv": "csv", ".tsv": "tsv", ".parquet": "parquet"}


def open_source(path: Path) -> Source:
    """Open an input; raises DataError if it cannot be read."""
    kind = FORMATS.get(path.suffix.lower())
    if path.suffix.lower() == ".gz":
        raise DataError(f"{path} is compressed, so that no part of it can be read alone", f"gunzip --keep {path.name}")
    if kind is None:
        raise DataError(f"{path} has an unknown format", f"give one of {', '.join(FORMATS)}, with a row in each line")
    if not path.is_file():
        raise DataError(f"{path} is no file", "correct the path")
    if kind == "parquet":
        try:
            from tuneport.scoring.parquet import ParquetFile
        except ImportError as error:
            raise DataError("Parquet needs pyarrow", "pip install pyarrow") from error
        return ParquetFile(path)
    return JsonLines(path) if kind == "jsonl" else Table(path)


def output_format(input: Path, out: Path) -> Format:
    """Return the format of an output: that of the input, JSON Lines, or Parquet for a table."""
    source, wanted = FORMATS.get(input.suffix.lower()), FORMATS.get(out.suffix.lower())
    possible = {source, "jsonl"} | ({"parquet"} if source in ("csv", "tsv") else set())
    if wanted is None or wanted not in possible:
        names = ", ".join(suffix for suffix, kind in FORMATS.items() if kind in possible)
        raise TuneportError(f"--out {out} cannot hold the rows of {input.name}", f"give a file named {names}")
    return wanted
