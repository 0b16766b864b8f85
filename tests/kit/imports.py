"""Who imports whom, read from the source: imports at any depth count, for type checking and inside functions too."""

import ast
import os
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

from kit import ROOT

PACKAGE = "tuneport"


@cache
def sources(root: Path = ROOT) -> dict[str, str]:
    """Map the name of every module of a checkout, those of the stages included, to its source."""
    files = (
        Path(folder) / name
        for folder, _, names in os.walk(root / PACKAGE, followlinks=True)
        for name in names
        if name.endswith(".py")
    )
    return {_module_name(file.relative_to(root)): file.read_text(encoding="utf-8") for file in files}


@cache
def packages() -> frozenset[str]:
    """Return the modules that are packages."""
    return frozenset(name for name in sources() if any(other.startswith(f"{name}.") for other in sources()))


def imported_names(source: str, package: str) -> set[str]:
    """Return the full names of all that a module of `package` imports; those of a `from` import with the name."""
    return set(_imported_names(ast.parse(source), package))


def import_graph() -> dict[str, set[str]]:
    """Map every module to the modules of the package that it imports."""
    return {
        module: {found for name in _names_of(module) if (found := _longest_module(name)) and found != module}
        for module in sources()
    }


def external_packages(module: str) -> set[str]:
    """Return the top-level packages outside of this one that a module imports."""
    return {name.partition(".")[0] for name in _names_of(module)} - {PACKAGE}


def cycles(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """Return the strongly connected components of more than one module (Tarjan's algorithm)."""
    index: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = lowest[node] = len(index)
        stack.append(node)
        for successor in sorted(graph[node]):
            if successor not in index:
                visit(successor)
            if successor in stack:
                lowest[node] = min(lowest[node], lowest[successor])
        if lowest[node] == index[node]:
            component = [stack.pop()]
            while component[-1] != node:
                component.append(stack.pop())
            if len(component) > 1:
                found.append(sorted(component))

    for node in sorted(graph):
        if node not in index:
            visit(node)
    return found


def _names_of(module: str) -> set[str]:
    package = module if module in packages() else module.rpartition(".")[0]
    return imported_names(sources()[module], package)


def _imported_names(tree: ast.AST, package: str) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")
            base = ".".join(parents[: len(parents) - node.level + 1]) if node.level else ""
            target = ".".join(part for part in (base, node.module) if part)
            # `from .tasks import base` may name a module, `from tuneport.errors import DataError` does not.
            yield from (f"{target}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            first = node.args[0] if node.args else None
            if isinstance(first, ast.Constant) and isinstance(first.value, str):
                yield first.value


def _longest_module(name: str) -> str | None:
    """Return the module that an import of a name runs: the name itself or the longest beginning that is a module."""
    while name not in sources():
        name = name.rpartition(".")[0]
        if not name:
            return None
    return name


def _module_name(file: Path) -> str:
    parts = file.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
