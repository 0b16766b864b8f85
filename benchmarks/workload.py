"""Real, labelled text for a benchmark: the test split of the data that the artifact was made with."""

from dataclasses import dataclass

from export.files import DataError
from export.manifest import DataSource, Manifest
from finetune.data import Data, read_data, reread, rows_of
from serve.tokenizer import Text


@dataclass(frozen=True)
class Workload:
    """Texts in order of arrival, with their true labels as indices into the manifest's."""

    texts: list[Text]
    targets: list[int]
    source: DataSource
    split: str


def read_workload(manifest: Manifest, data: str | None, columns: dict[str, str], count: int) -> Workload:
    """Read up to `count` rows of the test split, or of validation where there is none.

    Without `data`, the data that the artifact's variants were judged with. Raises DataError if it is gone or
    has other labels.
    """
    split, rows, source = _open(manifest, data, columns)
    index = {label: i for i, label in enumerate(manifest.labels)}
    texts: list[Text] = []
    targets: list[int] = []
    for number, row in rows_of(rows.take(min(count, len(rows)))):
        if str(row["label"]) not in index:
            problem = f"{source.source} ({split}) row {number}: label {row['label']!r} is not one of the artifact's"
            raise DataError(problem, "give data with the labels that the model was trained on")
        texts.append((row["text"], row["text_pair"]) if manifest.processing.accepts_pairs else row["text"])
        targets.append(index[str(row["label"])])
    return Workload(texts, targets, source, split)


def _open(manifest: Manifest, data: str | None, columns: dict[str, str]):  # type: ignore[no-untyped-def]
    required = ("text", "label", *(("text_pair",) if manifest.processing.accepts_pairs else ()))
    recorded = manifest.provenance.data
    if data is None and recorded is None:
        raise DataError(f"{manifest.name} was exported without data", "give labelled text with --data")
    read: Data
    if data is not None:
        read = read_data(data, columns=columns, required=required, optional=(), seed=0)
    else:
        assert recorded is not None
        read = reread(recorded, required=required, optional=())
    split = "test" if "test" in read.splits else "validation"
    return split, read.splits[split], read.source
