"""Checks Python and the installed packages against the requirements and the versions that the tests passed with."""

import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution, version
from importlib.resources import files

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from .findings import Finding, ok

CONSTRAINTS = files("tuneport") / "doctor" / "constraints.txt"
SHOWN_PACKAGES = 6
"""Packages that a finding names; it counts the others."""
PYTHON = ">=3.11,<3.13"
"""As in pyproject.toml, for an environment without tuneport's metadata."""
EXTRAS = {
    "train": "tuneport finetune, search and average",
    "export": "tuneport export, bench and bench-endpoint",
    "generate": "serving generative models",
    "demo": "tuneport demo and --model minilm-l6",
}
"""Extras that are worth a line where they are missing → what they are for."""


def check_packages() -> Iterator[Finding]:
    """Yield the findings on Python, on missing packages, and on versions."""
    yield check_python(f"{sys.version_info.major}.{sys.version_info.minor}.{sys.version_info.micro}")
    try:
        declared = [Requirement(text) for text in distribution("tuneport").requires or []]
    except PackageNotFoundError:
        remedy = "pip install it to have its requirements checked"
        yield Finding(name="packages", status="note", found="tuneport itself is not installed", remedy=remedy)
        declared = []
    required = [each for each in declared if each.marker is None or each.marker.evaluate({"extra": ""})]
    yield from check_requirements(required)
    for extra, purpose in EXTRAS.items():
        wanted = [each for each in declared if each.marker and each.marker.evaluate({"extra": extra})]
        missing = [each.name for each in wanted if each not in required and _version(each.name) is None]
        if missing:
            found = f"{_shown(missing)} not installed, for {purpose}"
            yield Finding(name="packages", status="note", found=found, remedy=f"pip install 'tuneport[{extra}]'")
    direct: set[str] = {canonicalize_name(each.name) for each in declared if not _is_for_development(each)}
    yield check_pins(tested_versions(), direct)


def check_python(running: str) -> Finding:
    """Check the version of Python."""
    if SpecifierSet(PYTHON).contains(running):
        return ok("python", f"{running}, {sys.executable}")
    found = f"{running}, and {PYTHON} is required"
    return Finding(name="python", status="error", found=found, remedy="make the environment with Python 3.11")


def check_requirements(required: list[Requirement]) -> Iterator[Finding]:
    """Yield a finding for required packages that are missing, and one for versions that the requirements exclude."""
    found = {each.name: _version(each.name) for each in required}
    if missing := [name for name, installed in found.items() if installed is None]:
        remedy = f"pip install {' '.join(missing)}"
        text = f"{_shown(missing)} not installed"
        yield Finding(name="packages", status="error", found=text, remedy=remedy)
    wrong = [
        f"{each.name} {found[each.name]}, and {each.specifier} is required"
        for each in required
        if (installed := found[each.name]) and not each.specifier.contains(installed, prereleases=True)
    ]
    if wrong:
        remedy = f"pip install -c {CONSTRAINTS} tuneport"
        yield Finding(name="packages", status="warning", found=_shown(wrong), remedy=remedy)
    if not missing and not wrong and required:
        yield ok("packages", f"all {len(required)} that tuneport requires")


def check_pins(tested: dict[str, str], direct: set[str]) -> Finding:
    """Compare the installed versions with the tested ones; `direct` are those that tuneport itself asks for."""
    installed = {name: _version(name) for name in tested}
    present = {name: number for name, number in installed.items() if number is not None}
    others = {name: number for name, number in present.items() if number != tested[name]}
    if not others:
        return ok("versions", f"{len(present)} packages are those that the tests passed with")
    named = sorted(others, key=lambda name: (name not in direct, name))
    found = f"{len(others)} of {len(present)} packages are not those that the tests passed with: "
    found += _shown([f"{name} {others[name]} (tested {tested[name]})" for name in named])
    status = "warning" if direct & others.keys() else "note"
    remedy = f"pip install -c {CONSTRAINTS} tuneport"
    if len(named) <= SHOWN_PACKAGES:  # by name: tuneport may not ask for them itself
        remedy = f"pip install {' '.join(f'{name}=={tested[name]}' for name in named)}"
    return Finding(name="versions", status=status, found=found, remedy=remedy)  # type: ignore[arg-type]


def tested_versions() -> dict[str, str]:
    """Return package → the version that the tests passed with."""
    lines = CONSTRAINTS.read_text(encoding="utf-8").splitlines()
    pins = [line.partition("==") for line in lines if "==" in line]
    return {canonicalize_name(name): number for name, _, number in pins}


def _is_for_development(requirement: Requirement) -> bool:
    marker = requirement.marker
    return marker is not None and marker.evaluate({"extra": "dev"}) and not marker.evaluate({"extra": ""})


def _version(package: str) -> str | None:
    """Return the installed version without its local part, such as `+cpu`."""
    try:
        return version(package).partition("+")[0]
    except PackageNotFoundError:
        return None


def _shown(items: list[str]) -> str:
    more = len(items) - SHOWN_PACKAGES
    return ", ".join(items[:SHOWN_PACKAGES]) + (f" and {more} more" if more > 0 else "")
