"""The words that the tiny models know, and texts of them."""

import random
from collections.abc import Iterator

SEED = 7
WORDS = tuple(
    "a the of in on at by is was not no yes it they we you he she this that and or but so then when shares bank fell "
    "rose game team won lost film music song band court law vote party phone chip code data cloud late early good bad "
    "great poor new old cold warm 7 42 2026 ! ? . , to who where what did does lives works met saw red blue big river "
    "city anna ben carl dora paris rome berlin oslo acme globex initech monday friday march".split()
)
NUMBERS = {"eins": "one", "zwei": "two", "drei": "three", "vier": "four", "neun": "nine", "zehn": "ten"}
"""The words of a translation task, German to English."""


def random_texts(seed: int) -> Iterator[str]:
    """Yield texts of one to forty words; some are capitalized."""
    generator = random.Random(seed)
    while True:
        words = generator.choices(WORDS, k=generator.choice((1, 3, 8, 20, 40)))
        yield " ".join(word.title() if generator.random() < 0.1 else word for word in words)


def pairs(count: int, seed: int = 3) -> list[dict[str, str]]:
    """Return rows of German numbers as `source` and the English ones as `target`."""
    generator = random.Random(seed)
    drawn = [generator.choices(list(NUMBERS), k=generator.randint(4, 7)) for _ in range(count)]
    return [{"source": " ".join(words), "target": " ".join(NUMBERS[word] for word in words)} for words in drawn]
