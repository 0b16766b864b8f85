"""The tags of named entity recognition: what each scheme allows, which scheme data follows, and what a tag says.

BIO    B-PER I-PER O: B begins every entity. Known as IOB2.
BIOES  B-PER I-PER E-PER, and S-PER for an entity of one token. Known as IOBES.
BILOU  B-PER I-PER L-PER, and U-PER for an entity of one token.
IOB1   I-PER I-PER O: a run of one type is an entity; B begins one that follows an entity of its own type directly.
IO     IOB1 without B, as I-PER or as the type alone, PER: adjacent entities of one type count as one entity.

Serving imports this module, so it needs only the standard library.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from tuneport.schema.run import TagScheme

OUTSIDE = "O"
"""The tag of tokens outside of entities."""
ALL_LETTERS = frozenset("BIESLU")
UNNAMED = "_"
"""Type of entities where tags are letters alone, as seqeval calls it."""
LETTERS: dict[TagScheme, str] = {"BIO": "BI", "IOB1": "BI", "BIOES": "BIES", "BILOU": "BILU", "IO": "I"}
TYPED = re.compile(r"[BIESLU]-.+")
OTHER_NOTATION = re.compile(r"[biesluBIESLUM][_:./|].+|[biesluM]-.+|.+[-_:./|][BIESLUM]")
"""Tags that name a letter, and that would be taken for types: B_PER, PER-B, b-per, M-PER."""


class TagError(ValueError):
    """A tag that belongs to no scheme, or to another one than the tags beside it."""

    def __init__(self, tag: str, problem: str) -> None:
        """Keep the tag, so that a caller finds its row."""
        super().__init__(problem)
        self.tag = tag


@dataclass(frozen=True)
class Scheme:
    """A tagging scheme, and how the tags of a data set are written in it."""

    name: TagScheme
    is_typed: bool
    """Whether tags have a letter and a type (B-PER)."""
    has_bare_types: bool
    """Whether tags are types without a letter (PER)."""

    def split(self, tag: str) -> tuple[str, str]:
        """Return a tag's letter and type; of O both are O."""
        if tag == OUTSIDE:
            return OUTSIDE, OUTSIDE
        if self.has_bare_types:
            return "I", tag
        return tag[0], tag[2:] if self.is_typed else UNNAMED

    def find_problem(self, tags: Sequence[str]) -> str | None:
        """Return what the scheme does not allow in the tags of a sentence; None if it allows all."""
        if malformed := next(filter(None, map(self.find_malformed, tags)), None):
            return malformed
        for before, tag in pairwise([OUTSIDE, *tags]):
            if not self._may_follow(self.split(before), self.split(tag)):
                return f"tag {tag!r} follows {before!r}, which {self.name} does not allow"
        if tags and not self._may_follow(self.split(tags[-1]), (OUTSIDE, OUTSIDE)):
            return f"tag {tags[-1]!r} is the last of its sentence, which {self.name} does not allow"
        return None

    def find_malformed(self, tag: str) -> str | None:
        """Return what is wrong with a tag that the scheme does not have, such as X-PER; None if it has it."""
        if tag == OUTSIDE or self.has_bare_types:
            return None
        if tag[:1] in LETTERS[self.name] and (TYPED.fullmatch(tag) if self.is_typed else len(tag) == 1):
            return None
        letters = ", ".join(f"{letter}-" if self.is_typed else letter for letter in LETTERS[self.name])
        expected = f"O or {letters}{' with a type' if self.is_typed else ''}"
        return f"tag {tag!r} is malformed, and {expected} is expected ({self.name})"

    def _may_follow(self, before: tuple[str, str], after: tuple[str, str]) -> bool:
        """Tell whether a tag may stand after another, each as letter and type."""
        is_same = before[1] == after[1]
        if self.name == "BIO":
            return after[0] != "I" or is_same
        if self.name == "IOB1":
            return after[0] != "B" or is_same
        if self.name == "IO":
            return True
        is_open = before[0] in "BI"
        return is_open == (after[0] in "IEL") and (is_same or not is_open)


def scheme_of_tags(name: TagScheme, tags: Iterable[str]) -> Scheme:
    """Return a scheme as these tags, all of a data set or a model, are written."""
    known = set(tags) - {OUTSIDE}
    is_typed = any(TYPED.fullmatch(tag) for tag in known)
    return Scheme(name, is_typed, has_bare_types=not is_typed and bool(known) and not known <= ALL_LETTERS)


def possible_schemes(tags: Iterable[str]) -> list[TagScheme]:
    """Return the schemes that a set of tags may be of: one, or BIO and IOB1, which have the same tags.

    Raises TagError for a tag of no scheme, and for tags that exclude each other.
    """
    known = sorted(set(tags) - {OUTSIDE})
    if known and all(OTHER_NOTATION.fullmatch(tag) or tag == "o" for tag in known):
        problem = f"tag {known[0]!r} is malformed, and O or B-, I-, E-, S-, L-, U- with a type is expected"
        raise TagError(known[0], problem)
    are_letters = ALL_LETTERS.issuperset(known)
    letters = {tag[0]: tag for tag in known if are_letters or TYPED.fullmatch(tag)}
    of_bioes, of_bilou = letters.keys() & set("ES"), letters.keys() & set("LU")
    if of_bioes and of_bilou:
        first, second = letters[min(of_bioes)], letters[min(of_bilou)]
        raise TagError(second, f"tag {second!r} is of BILOU, and {first!r} of BIOES")
    if of_bioes:
        return ["BIOES"]
    if of_bilou:
        return ["BILOU"]
    return ["BIO", "IOB1"] if "B" in letters else ["IO"]


def detect_scheme(sentences: Iterable[Sequence[str]]) -> Scheme:
    """Detect the scheme from the tags of all sentences of a data set.

    BIO and IOB1 have the same tags: it is IOB1 if B never begins a run of one type. Raises TagError where tags are of
    no scheme, or of two; a sentence that the scheme does not allow is for `Scheme.find_problem`.
    """
    tags: set[str] = set()
    begins_with_b = False
    for sentence in sentences:
        tags.update(sentence)
        pairs = pairwise([OUTSIDE, *sentence])
        begins_with_b = begins_with_b or any(tag[:1] == "B" and _type(before) != _type(tag) for before, tag in pairs)
    names = possible_schemes(tags)
    return scheme_of_tags(names[0] if begins_with_b else names[-1], tags)


def _type(tag: str) -> str | None:
    return None if tag == OUTSIDE else tag[2:]
