"""The notebook of the Python API runs from its first cell to its last: on a tiny model, and slowly as it is."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from kit import ROOT

NOTEBOOK = ROOT / "docs" / "quickstart.ipynb"

RUNNER = """
import ast
names = {{}}
for cell in {cells!r}:
    body = ast.parse(cell).body
    last = body.pop() if isinstance(body[-1], ast.Expr) else None
    exec(compile(ast.Module(body, []), "cell", "exec"), names)
    if last is not None:
        print(repr(eval(compile(ast.Expression(last.value), "cell", "eval"), names)))
"""


def cells() -> list[dict[str, object]]:
    return list(json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"])


def source(cell: dict[str, object]) -> str:
    return "".join(cell["source"])  # type: ignore[arg-type]


def run(folder: Path, parameters: str | None = None) -> str:
    """Run the code cells in one process, the values of expressions printed as a notebook shows them."""
    code = [source(cell) for cell in cells() if cell["cell_type"] == "code"]
    if parameters is not None:
        code[0] = parameters
    script = RUNNER.format(cells=code)
    done = subprocess.run([sys.executable, "-c", script], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_notebook_runs(tiny_checkpoint: Path, tmp_path: Path) -> None:
    printed = run(tmp_path, f'MODEL, VARIANTS, FOLDER = {str(tiny_checkpoint)!r}, ("fp32",), "notebook"')
    assert "fp32     max difference" in printed
    assert "bicycle" in printed
    assert (tmp_path / "notebook" / "artifact" / "manifest.json").is_file()


@pytest.mark.slow
def test_the_notebook_runs_as_it_is(tmp_path: Path) -> None:
    printed = run(tmp_path)
    assert "'label': 'good'" in printed


def test_the_first_code_cell_holds_the_parameters() -> None:
    first = next(cell for cell in cells() if cell["cell_type"] == "code")
    assert first["metadata"] == {"tags": ["parameters"]}
    assert [line.split(" = ")[0] for line in source(first).splitlines()] == ["MODEL", "VARIANTS", "FOLDER"]
