"""The notebook of the Python API runs from its first cell to its last: on a tiny model, and slowly as it is."""

import ast
import json
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
from kit import ROOT
from kit.exports import quick_exports

NOTEBOOK = ROOT / "docs" / "quickstart.ipynb"


def code_cells() -> list[dict[str, Any]]:
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    return [{**cell, "source": "".join(cell["source"])} for cell in cells if cell["cell_type"] == "code"]


def run_cells(sources: list[str]) -> None:
    """Run cells in one namespace; print the values of their last expressions, as a notebook shows them."""
    names: dict[str, Any] = {}
    for source in sources:
        body = ast.parse(source).body
        last = body.pop() if isinstance(body[-1], ast.Expr) else None
        exec(compile(ast.Module(body, []), "cell", "exec"), names)
        if isinstance(last, ast.Expr):
            sys.stdout.write(f"{eval(compile(ast.Expression(last.value), 'cell', 'eval'), names)!r}\n")


def test_the_notebook_runs(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    parameters = f'MODEL, VARIANTS, FOLDER = {str(tiny_checkpoint)!r}, ("fp32",), "notebook"'
    with warnings.catch_warnings(), quick_exports():
        run_cells([parameters, *(cell["source"] for cell in code_cells()[1:])])
    printed = capsys.readouterr().out
    assert "fp32     max difference" in printed
    assert "bicycle" in printed
    assert (tmp_path / "notebook" / "artifact" / "manifest.json").is_file()


@pytest.mark.slow
def test_the_notebook_runs_as_it_is(tmp_path: Path) -> None:
    script = "import json, sys; from test_notebook import run_cells; run_cells(json.load(sys.stdin))"
    sources = json.dumps([cell["source"] for cell in code_cells()])
    paths = [str(ROOT / "tests"), *sys.path]
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {paths!r}; {script}"],
        cwd=tmp_path, input=sources, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "'label': 'good'" in done.stdout


def test_the_first_code_cell_holds_the_parameters() -> None:
    first = code_cells()[0]
    assert first["metadata"] == {"tags": ["parameters"]}
    assert [line.split(" = ")[0] for line in first["source"].splitlines()] == ["MODEL", "VARIANTS", "FOLDER"]
