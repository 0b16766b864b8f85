"""Print figures of the structure, of the working tree or of a commit: `python3 .ci/structure.py [COMMIT]`.

Modules, lines, and the median lengths of modules and functions of each folder; generated code is left out.
"""

import ast
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from statistics import median

FOLDERS = ("tuneport", "finetune", "export", "serve", "benchmarks", "tests")


def sources(commit: str | None) -> dict[str, str]:
    """Return the text of every Python module below `FOLDERS` by path."""
    command = ["git", "ls-tree", "-r", "--name-only", commit] if commit else ["git", "ls-files"]
    paths = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    chosen = [path for path in paths if path.endswith(".py") and path.partition("/")[0] in FOLDERS]
    chosen = [path for path in chosen if not path.endswith("_pb2.py")]
    if commit is None:
        return {path: Path(path).read_text(encoding="utf-8") for path in chosen if Path(path).is_file()}
    return {
        path: subprocess.run(["git", "show", f"{commit}:{path}"], capture_output=True, text=True, check=True).stdout
        for path in chosen
    }


def function_lengths(source: str) -> list[int]:
    """Return the lines of every function, decorators and docstrings included."""
    functions = [
        node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    return [(node.end_lineno or node.lineno) - node.lineno + 1 for node in functions]


def main(commit: str | None) -> None:
    """Print a table, a line a folder."""
    modules: dict[str, list[int]] = defaultdict(list)
    functions: dict[str, list[int]] = defaultdict(list)
    for path, source in sources(commit).items():
        folder = path.partition("/")[0]
        for name in (folder, "all but tests") if folder != "tests" else (folder,):
            modules[name].append(len(source.splitlines()))
            functions[name] += function_lengths(source)
    titles = ("modules", "lines", "median module", "longest", "median function", "over 30")
    print("{:14} {:>8} {:>8} {:>14} {:>8} {:>16} {:>8}".format("", *titles))
    for name in (*FOLDERS[:-1], "all but tests", FOLDERS[-1]):
        if modules[name]:
            filled = [length for length in modules[name] if length > 1]
            figures = (len(modules[name]), sum(modules[name]), median(filled), max(modules[name]))
            long_functions = sum(length > 30 for length in functions[name])
            print("{:14} {:8} {:8} {:14.0f} {:8}".format(name, *figures), end="")
            print(f" {median(functions[name]):16.0f} {long_functions:8}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else None)
