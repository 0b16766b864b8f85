"""A finding of `tuneport doctor`, and how it is written in one line."""

from typing import Literal

from tuneport.schema.base import Frozen

Status = Literal["ok", "note", "warning", "error"]
"""`note`: nothing to do unless the user wants more; `error`: it prevents a basic command."""


class Finding(Frozen):
    """What was found of one thing."""

    name: str
    status: Status
    found: str
    remedy: str = ""
    """What to do about it; empty where there is nothing to do."""

    def line(self) -> str:
        """Write the finding in one line."""
        text = f"{self.status:<8}{self.name}: {self.found}"
        return " ".join(f"{text}; {self.remedy}".split("\n")) if self.remedy else text


def ok(name: str, found: str) -> Finding:
    """Return a finding without a problem."""
    return Finding(name=name, status="ok", found=found)
