"""The layers and who may import whom: stages import the core and themselves, and there is no import cycle."""

import gzip
import sys
from collections.abc import Mapping

import pytest
from kit import ROOT
from kit.imports import cycles, external_packages, import_graph, imported_names, packages, sources

STAGES = ("finetune", "export", "serve", "benchmarks")
MAY_IMPORT = {
    "core": {"core"},
    "finetune": {"core", "finetune"},
    "export": {"core", "export"},
    "serve": {"core", "serve"},
    "benchmarks": {"core", "benchmarks", "finetune", "export", "serve"},
    "api": {"core", "finetune", "export"},
    "cli": {"core", "cli", *STAGES},
}
CONTRACT = ("tuneport.schema", "tuneport.errors", "tuneport.folders", "tuneport.gpu", "tuneport.host", "tuneport.tasks")


def layer(module: str) -> str:
    """Return the layer of a module: a stage, the command line, the Python API, or the core."""
    if module == "tuneport":
        return "api"
    if module == "tuneport.__main__" or module.split(".")[1] == "cli":
        return "cli"
    parts = module.split(".")
    return parts[2] if parts[1] == "stages" and len(parts) > 2 else "core"


def forbidden_imports(graph: Mapping[str, set[str]]) -> list[str]:
    return [
        f"{module} imports {imported}"
        for module in sorted(graph)
        for imported in sorted(graph[module])
        if layer(imported) not in MAY_IMPORT[layer(module)]
    ]


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import tuneport.errors", {"tuneport.errors"}),
        ("def f():\n    from tuneport.stages.export import pipeline", {"tuneport.stages.export.pipeline"}),
        ("if TYPE_CHECKING:\n    from tuneport.host import Host", {"tuneport.host.Host"}),
        ("from . import config", {"tuneport.stages.finetune.config"}),
        ("from .config import load_config", {"tuneport.stages.finetune.config.load_config"}),
        ("from ..export.graph import Graph", {"tuneport.stages.export.graph.Graph"}),
        ("importlib.import_module('tuneport.host')", {"tuneport.host"}),
        ("import os, numpy.linalg", {"os", "numpy.linalg"}),
    ],
)
def test_every_form_of_import_is_seen(source: str, found: set[str]) -> None:
    assert imported_names(source, "tuneport.stages.finetune") == found


def test_the_graph_has_every_module_and_knows_packages() -> None:
    graph = import_graph()
    assert {*STAGES, "core", "cli", "api"} == {layer(module) for module in graph}
    assert "tuneport.schema.base" in graph["tuneport.schema.artifact"]
    assert "tuneport.stages.export.config" in graph["tuneport.stages.export.pipeline"]
    assert {"tuneport", "tuneport.stages.export"} <= packages()


def test_stages_import_only_the_core_and_themselves() -> None:
    offenders = forbidden_imports(import_graph())
    assert not offenders, "\n".join(["imports across layers:", *offenders])


def test_a_forbidden_import_is_found() -> None:
    graph = {
        "tuneport.stages.serve.service": {"tuneport.stages.export.gate", "tuneport.errors"},
        "tuneport.runtime.runner": {"tuneport.stages.serve.batcher"},
        "tuneport.stages.benchmarks.engine": {"tuneport.stages.export.gate", "tuneport.cli.tables"},
    }
    assert forbidden_imports(graph) == [
        "tuneport.runtime.runner imports tuneport.stages.serve.batcher",
        "tuneport.stages.benchmarks.engine imports tuneport.cli.tables",
        "tuneport.stages.serve.service imports tuneport.stages.export.gate",
    ]


def test_there_is_no_import_cycle() -> None:
    graph = import_graph()
    lines = []
    for cycle in cycles(graph):
        lines.append(f"a cycle of {len(cycle)} modules:")
        lines += [f"  {module} imports {', '.join(sorted(graph[module] & set(cycle)))}" for module in cycle]
    assert not lines, "\n".join(lines)


def test_a_cycle_is_found() -> None:
    assert cycles({"a": {"b"}, "b": {"c", "d"}, "c": {"a"}, "d": set(), "e": {"f"}, "f": {"e"}}) == [
        ["a", "b", "c"],
        ["e", "f"],
    ]


def test_a_stage_names_itself_relatively() -> None:
    """So that its modules find each other wherever the stage's folder lies, as in a bento."""
    offenders = [
        f"{module} spells out tuneport.stages.{layer(module)}"
        for module, source in sources().items()
        if layer(module) in STAGES
        and any(
            line.lstrip().startswith(
                (f"from tuneport.stages.{layer(module)}", f"import tuneport.stages.{layer(module)}")
            )
            for line in source.splitlines()
        )
    ]
    assert not offenders, "\n".join(offenders)


def test_the_contract_needs_the_standard_library_and_pydantic_alone() -> None:
    contract = {
        name for name in sources() if any(name == prefix or name.startswith(f"{prefix}.") for prefix in CONTRACT)
    }
    allowed = {*sys.stdlib_module_names, "pydantic", "pynvml"}
    graph = import_graph()
    offenders = [f"{module} imports {name}" for module in contract for name in external_packages(module) - allowed]
    offenders += [f"{module} imports {name}" for module in contract for name in graph[module] - contract]
    assert not offenders, "\n".join(sorted(offenders))


@pytest.mark.parametrize("body", [gzip.compress(b"")])
def test_bytes_which_may_hold_the_time_are_no_part_of_a_test_s_name(
    body: bytes, request: pytest.FixtureRequest
) -> None:
    assert body
    assert request.node.name.endswith("[body]")


def test_no_two_test_modules_share_a_name() -> None:
    """Without packages pytest imports them by their bare names."""
    names = [file.name for file in (ROOT / "tests").rglob("test_*.py")]
    assert sorted(set(names)) == sorted(names)
