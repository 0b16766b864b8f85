"""selection.json: which variants a part of an artifact holds, as a bento packs it.

The manifest beside it is that of the whole artifact, so that its seal and its signature hold. The selection itself has
neither: who builds a bento need not have the key. It can only leave variants out, because each name must be one of the
manifest, which has the hashes of its files; `serve/origin.py` refuses another default than the signed one.
"""

from typing import Annotated

from pydantic import Field, field_validator

from tuneport.schema.base import Frozen

SELECTION = "selection.json"


class PackedVariants(Frozen):
    """The variants that are there."""

    variants: Annotated[tuple[str, ...], Field(min_length=1)]
    """The first serves by default."""

    @field_validator("variants")
    @classmethod
    def _are_distinct(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(names)) != len(names):
            raise ValueError("a variant is named twice")
        return names
