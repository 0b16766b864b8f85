"""The documents name every setting and every option, and no other; their links and code blocks are well-formed."""

import ast
import json
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import typer
from kit import ROOT

import tuneport
from tuneport.cli.app import app
from tuneport.stages.benchmarks.command import flag_of
from tuneport.stages.benchmarks.request_cost.config import RequestCostConfig
from tuneport.stages.benchmarks.shared_engine.config import SharedEngineConfig
from tuneport.stages.finetune.config import FinetuneConfig
from tuneport.stages.serve.settings import Settings
from tuneport.tasks import all_tasks

DOCUMENTS = [*sorted((ROOT / "docs").rglob("*.md")), *sorted(ROOT.glob("*.md"))]
LINK = re.compile(r"\]\((?![a-z]+:|#)([^)\s#]+)[^)]*\)")
COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]

CONFIGS = {"benchmarks.request_cost": RequestCostConfig, "benchmarks.shared_engine": SharedEngineConfig}
"""Modules whose options are the fields of a config."""


def _first_cells(document: str) -> list[str]:
    text = (ROOT / "docs" / document).read_text(encoding="utf-8")
    cells = re.findall(r"^\| (`[^|]+`) \|", text, re.M)
    return [name for cell in cells for name in re.findall(r"`([^`]+)`", cell)]


def _options(command: str) -> set[str]:
    return {
        spelling for option in COMMANDS[command].params for spelling in (*option.opts, *option.secondary_opts, "--help")
    }


def test_every_setting_of_a_run_is_in_the_table() -> None:
    assert set(_first_cells("finetuning.md")) - all_tasks().keys() == set(FinetuneConfig.model_fields)


def test_every_variable_of_the_service_is_in_the_table_with_its_default() -> None:
    documented = set(_first_cells("deployment.md"))
    assert documented >= {f"TUNEPORT_{name.upper()}" for name in Settings.model_fields}
    assert {name for name in documented if name.startswith("TUNEPORT_")} <= {
        f"TUNEPORT_{name.upper()}" for name in Settings.model_fields
    }
    text = (ROOT / "docs" / "deployment.md").read_text(encoding="utf-8")
    for name, field in Settings.model_fields.items():
        if isinstance(field.default, int | float):
            assert f"| `TUNEPORT_{name.upper()}` | {field.default:.0f} |" in text


@pytest.mark.parametrize("command", sorted(COMMANDS.keys() - {"serve"}))
def test_every_option_is_in_the_documents(command: str) -> None:
    """Those of `tuneport serve` are there as variables."""
    text = "".join(document.read_text(encoding="utf-8") for document in DOCUMENTS)
    assert f"tuneport {command} " in text
    assert {spelling for option in COMMANDS[command].params for spelling in option.opts if "--" in spelling} - set(
        re.findall(r"--[a-z][a-z0-9-]*", text)
    ) == set()


def test_the_documents_show_no_option_that_does_not_exist() -> None:
    shown = [
        (command, option)
        for document in DOCUMENTS
        for command, rest in re.findall(
            r"tuneport ([a-z-]+)((?:[^`\n]*\\\n)*[^`\n]*)", document.read_text(encoding="utf-8")
        )
        if command in COMMANDS
        for option in re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", rest)
    ]
    assert len(shown) > 30
    assert [(command, option) for command, option in shown if option not in _options(command)] == []


def test_the_modules_that_documents_run_exist_and_have_the_options_that_are_shown() -> None:
    texts = [document.read_text(encoding="utf-8") for document in DOCUMENTS]
    shown = {
        (module, option)
        for text in texts
        for module, rest in re.findall(r"python -m tuneport\.stages\.([\w.]+)((?:[^`\n]*\\\n)*[^`\n]*)", text)
        for option in re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*|$", rest)
    }
    assert ("benchmarks.soak", "--faults") in shown
    assert ("benchmarks.scoring", "--min-seconds") in shown
    sources = {module: _sources(ROOT / module.replace(".", "/")) for module, _ in shown}
    assert [module for module, source in sources.items() if not source] == []
    flags = {module: {"", *map(flag_of, config.model_fields)} for module, config in CONFIGS.items()}
    assert [pair for pair in shown if pair[1] not in flags.get(pair[0], sources[pair[0]])] == []


def _sources(path: Path) -> str:
    """Return the text of a module, or of a package's modules."""
    files = [path.with_suffix(".py")] if path.with_suffix(".py").is_file() else sorted(path.glob("*.py"))
    return "".join(file.read_text(encoding="utf-8") for file in files)


def test_the_python_api_is_documented() -> None:
    text = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    text += (ROOT / "docs" / "clients.md").read_text(encoding="utf-8")
    assert all(f"| `{name}(" in text or f"tuneport.{name}(" in text for name in tuneport.__all__)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda each: str(each.relative_to(ROOT)))
def test_links_lead_to_files_of_the_repository(document: Path) -> None:
    """Anchors are checked by `make docs`, which knows the headings."""
    links = LINK.findall(document.read_text(encoding="utf-8"))
    assert [link for link in links if not (document.parent / link).exists()] == []


def test_a_broken_link_is_found() -> None:
    assert LINK.findall("[a](b.md) [c](d.md#e) [f](https://g) [h](#i) ![j](k.png)") == ["b.md", "d.md", "k.png"]


def blocks(language: str) -> list[tuple[str, str]]:
    """Return the fenced blocks of a language with the names of their documents."""
    return [
        (str(document.relative_to(ROOT)), block)
        for document in DOCUMENTS
        for block in re.findall(rf"^```{language}\n(.*?)^```", document.read_text(encoding="utf-8"), re.M | re.S)
    ]


def well_formed(language: str, block: str) -> str:
    """Return what is wrong with a code block; empty for nothing."""
    try:
        if language == "python":
            compile(block, "block", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        elif language == "toml":
            tomllib.loads(block)
        elif language == "json":
            json.loads(block)
        else:
            done = subprocess.run(["bash", "-n"], input=block, text=True, capture_output=True, check=False)
            return done.stderr
    except (SyntaxError, ValueError) as error:
        return str(error)
    return ""


@pytest.mark.parametrize("language", ["python", "toml", "json", "bash"])
def test_code_blocks_are_well_formed(language: str) -> None:
    found = blocks(language)
    assert found or language == "json"
    assert [(name, block, wrong) for name, block in found if (wrong := well_formed(language, block))] == []


@pytest.mark.parametrize(
    ("language", "block"), [("python", "a = ("), ("toml", "a = "), ("json", "{,}"), ("bash", "if true; then")]
)
def test_a_block_that_is_not_well_formed_is_found(language: str, block: str) -> None:
    assert well_formed(language, block)


def test_the_commands_of_code_blocks_exist() -> None:
    found = {command for _, block in blocks("bash") for command in re.findall(r"^tuneport ([a-z-]+)", block, re.M)}
    assert {"export", "serve"} <= found
    assert found <= COMMANDS.keys()


def test_the_architecture_names_files_and_packages_that_exist_and_all_of_the_packages() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    paths = re.findall(r"`((?:tuneport|finetune|export|serve|benchmarks)/[a-z_/.]+)`", text)
    assert len(paths) > 100
    assert [path for path in paths if not (ROOT / path).exists()] == []
    core = {path.name for path in (ROOT / "tuneport").iterdir()} - {"__main__.py", "__pycache__", "py.typed"}
    assert {name.rstrip("/") for name in re.findall(r"^      ([a-z_]+(?:\.py|/)) ", text, re.M)} == core
    for stage in ("finetune", "export", "serve", "benchmarks"):
        named = re.findall(r"`([a-z_]+)/`", next(re.finditer(rf"^\| `{stage}/` \| (`.*)$", text, re.M))[1])
        packages = {path.parent.name for path in (ROOT / stage).rglob("*/*.py")} - {stage}
        assert {*named, "tasks"} >= packages
        assert {*named} <= packages


WRITE_DOCUMENTS = ("benchmarks/readme.py", "benchmarks/architectures/__main__.py")


def test_no_text_of_the_wheel_names_a_page_of_docs_which_is_not_in_it() -> None:
    """Neither an error nor the help of a command or a function."""
    named = [
        (str(file.relative_to(ROOT)), match[0])
        for package in ("tuneport", "finetune", "export", "serve", "benchmarks")
        for file in (ROOT / package).rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and (match := re.search(r"docs/[a-z/-]+\.md", str(node.value)))
    ]
    assert {file for file, _ in named} == set(WRITE_DOCUMENTS)


def test_every_page_is_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    pages = [str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md")]
    assert [page for page in pages if f": {page}\n" not in navigation] == []
