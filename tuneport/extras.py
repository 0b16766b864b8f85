"""The extras of the package: what a command needs beyond a server's packages, and which extra brings it."""

from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution, requires

from packaging.requirements import Requirement

from tuneport.errors import TuneportError

PACKAGE = "tuneport"


def require_extras(what: str, *extras: str) -> None:
    """Raise TuneportError unless every package of the extras is installed; `what` begins the message."""
    if missing := next((name for extra in extras for name in packages_of(extra) if not _is_installed(name)), None):
        raise TuneportError(f"{what} needs {missing}", f"pip install '{PACKAGE}[{','.join(extras)}]'")


def packages_of(extra: str) -> Iterator[str]:
    """Yield the packages that an extra names; none where the package runs without its metadata, as in a bento."""
    try:
        declared = requires(PACKAGE) or []
    except PackageNotFoundError:
        return
    for requirement in map(Requirement, declared):
        if requirement.marker and requirement.marker.evaluate({"extra": extra}):
            yield requirement.name


def _is_installed(name: str) -> bool:
    try:
        return bool(distribution(name))
    except PackageNotFoundError:
        return False
