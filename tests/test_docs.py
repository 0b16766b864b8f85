"""The documents name every setting and every option, and no other."""

import re

import pytest
import typer
from kit import ROOT

import tuneport
from tuneport.cli.main import app
from tuneport.stages.finetune.config import FinetuneConfig
from tuneport.stages.serve.settings import Settings
from tuneport.tasks import all_tasks

DOCUMENTS = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md"]
COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]


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


def test_the_python_api_is_documented() -> None:
    text = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    assert all(f"| `{name}(" in text for name in tuneport.__all__)
