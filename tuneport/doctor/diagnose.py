"""Runs every check; one that fails itself is a finding, too."""

from collections.abc import Callable, Iterable, Iterator

from tuneport.host import Host

from .engines import check_engines
from .environment import check_environment
from .findings import Finding
from .machine import check_machine
from .packages import check_packages

Check = Callable[[], Iterable[Finding]]


def diagnose(more: dict[str, Check] | None = None) -> Iterator[Finding]:
    """Yield all findings; `more` are further checks by name."""
    host = Host.here()
    checks: dict[str, Check] = {
        "machine": lambda: check_machine(host),
        "packages": check_packages,
        "engines": lambda: check_engines(host),
        "environment": check_environment,
        **(more or {}),
    }
    for name, check in checks.items():
        try:
            yield from check()
        except Exception as error:  # the other checks are what a user of a broken environment needs
            found = f"the check of {name} failed: {type(error).__name__}: {error}"
            yield Finding(name=name, status="warning", found=found, remedy="report this")
