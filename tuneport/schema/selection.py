"""selection.json: which variants a part of an artifact holds, as a bento packs it.

The manifest beside it is that of the whole artifact, so that its seal and its signature hold.
"""

from typing import Annotated

from pydantic import Field

from tuneport.schema.base import Frozen

SELECTION = "selection.json"


class Selection(Frozen):
    """The variants that are there."""

    variants: Annotated[tuple[str, ...], Field(min_length=1)]
    """The first serves by default."""
