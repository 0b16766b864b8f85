"""The rooms: who may import whom, read from the source."""

import ast
from pathlib import Path

import pytest
from helpers import ROOT

ROOMS = ("finetune", "export", "serve", "benchmarks", "tuneport")
CONTRACT = ("export.manifest", "export.files", "export.machine")
MAY_IMPORT = {
    "finetune": ("finetune", "serve.spans", *CONTRACT),
    "serve": ("serve", *CONTRACT),
    "export": (
        "export",
        "serve",
        "finetune.bottleneck",
        "finetune.data",
        "finetune.entities",
        "finetune.heads",
        "finetune.spans",
        "finetune.tasks.summarization",
    ),
    "benchmarks": ("benchmarks", "export", "serve", "finetune"),
    "tuneport": ROOMS,
}


def imports(source: str, package: str) -> set[str]:
    """Return the full names of all that a module imports from the rooms, wherever in the file."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join([*package.split(".")[: len(package.split(".")) - node.level + 1]] if node.level else [])
            module = ".".join(part for part in (base, node.module) if part)
            # `from export import manifest` names a module, `from export.manifest import File` does not.
            found |= {f"{module}.{alias.name}" for alias in node.names}
    return {name for name in found if name.partition(".")[0] in ROOMS}


def allowed(name: str, room: str) -> bool:
    return any(name == prefix or name.startswith(f"{prefix}.") for prefix in MAY_IMPORT[room])


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import export.pipeline", {"export.pipeline"}),
        ("def f():\n    from export import pipeline", {"export.pipeline"}),
        ("from export.manifest import File", {"export.manifest.File"}),
        ("from . import data", {"finetune.data"}),
        ("from .data import read", {"finetune.data.read"}),
        ("import os, numpy", set()),
    ],
)
def test_every_form_of_import_is_seen(source: str, found: set[str]) -> None:
    assert imports(source, "finetune") == found


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_what_it_may(room: str) -> None:
    files = list((ROOT / room).rglob("*.py"))
    wrong = {
        str(file.relative_to(ROOT)): bad
        for file in files
        if (
            bad := {
                name
                for name in imports(file.read_text(), ".".join(file.parent.relative_to(ROOT).parts))
                if not allowed(name, room)
            }
        )
    }
    assert files
    assert wrong == {}


@pytest.mark.parametrize("name", ["manifest", "files", "machine"])
def test_the_contract_needs_the_standard_library_and_pydantic_alone(name: str) -> None:
    import sys

    tree = ast.parse((ROOT / "export" / f"{name}.py").read_text())
    modules = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    modules |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    outside = {module.partition(".")[0] for module in modules} - set(sys.stdlib_module_names)
    assert outside <= {"pydantic", "export"}


def test_a_forbidden_import_is_forbidden() -> None:
    assert not allowed("torch_free.export", "serve")
    assert not allowed("export.pipeline.export", "serve")
    assert not allowed("export.filesystem", "serve")
    assert not allowed("tuneport.cli", "benchmarks")
    assert allowed("export.files.DataError", "serve")


def _test_files() -> list[Path]:
    return sorted((ROOT / "tests").rglob("test_*.py"))


def test_no_two_test_modules_share_a_name() -> None:
    """Without packages pytest imports them by their bare names."""
    names = [file.name for file in _test_files()]
    assert sorted(set(names)) == sorted(names)
