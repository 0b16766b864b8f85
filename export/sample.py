"""Labelled text from the user's data, for the gate and the benchmarks."""

from dataclasses import dataclass

from export.files import DataError
from export.manifest import DataSource
from finetune.data import read_data, reread, rows_of
from serve.tokenizer import Text


@dataclass(frozen=True)
class Sample:
    """Texts in the data's order, with their true labels as indices; empty where there is no data."""

    texts: list[Text]
    targets: list[int]
    source: DataSource | None
    split: str


def read_sample(
    labels: tuple[str, ...],
    *,
    accepts_pairs: bool,
    data: str | DataSource | None,
    columns: dict[str, str],
    seed: int,
    splits: tuple[str, ...],
    count: int,
) -> Sample:
    """Read up to `count` rows of the first of `splits` that the data has.

    `data` is the user's source, or the record of one that was read before and must not have changed since.
    Raises DataError for data that is gone, or whose labels are not among `labels`.
    """
    if data is None:
        return Sample([], [], None, "")
    required = ("text", "label", *(("text_pair",) if accepts_pairs else ()))
    if isinstance(data, DataSource):
        read = reread(data, required=required, optional=())
    else:
        read = read_data(data, columns=columns, required=required, optional=(), seed=seed)
    split = next(name for name in splits if name in read.splits)
    index = {label: i for i, label in enumerate(labels)}
    texts: list[Text] = []
    targets: list[int] = []
    for number, row in rows_of(read.splits[split].take(min(count, len(read.splits[split])))):
        place = f"{read.files[split]} row {number}"
        if (label := str(row["label"])) not in index:
            problem = f"{place}: label {label!r} is not one of the model's {list(labels)[:20]}"
            raise DataError(problem, "give data with the labels that the model was trained on")
        if not all(isinstance(row[column], str) for column in required if column != "label"):
            raise DataError(f"{place}: a text is not a string", "correct the row")
        texts.append((row["text"], row["text_pair"]) if accepts_pairs else row["text"])
        targets.append(index[label])
    return Sample(texts, targets, read.source, split)
