"""The command line starts, and ends, cleanly: interrupted while it imports, and without standard streams."""

import subprocess
import sys
from pathlib import Path

import pytest
from kit import ROOT

from tuneport.cli.signals import INTERRUPTED

INTERRUPTED_IMPORT = """
import os, signal, sys

class Hook:
    def find_spec(self, name, *_):
        if name == {module!r}:
            os.kill(os.getpid(), signal.{signal})

signal.signal(signal.SIGINT, signal.default_int_handler)
sys.meta_path.insert(0, Hook())
sys.argv = ["tuneport", "average", "--help"]
from tuneport.cli.main import main
main()
"""


@pytest.mark.parametrize("module", ["tuneport.cli.app", "typer", "pydantic", "tuneport.stages.serve.settings"])
@pytest.mark.parametrize("signal", ["SIGINT", "SIGTERM"])
def test_a_signal_while_commands_are_imported_gives_one_line(module: str, signal: str) -> None:
    script = INTERRUPTED_IMPORT.format(module=module, signal=signal)
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", f"{INTERRUPTED}\n")


@pytest.mark.parametrize("arguments", [["--version"], ["inspect", "absent"]])
def test_a_signal_while_the_interpreter_ends_prints_no_traceback(arguments: list[str]) -> None:
    script = f"""
import atexit, os, signal, sys
atexit.register(lambda: os.kill(os.getpid(), signal.SIGTERM))
sys.argv = {["tuneport", *arguments]!r}
from tuneport.cli.main import main
main()
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 130
    assert done.stderr.endswith(f"{INTERRUPTED}\n")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("closed", ["2>&-", "0<&- 2>&-", "0<&-"])
def test_closed_streams_do_not_prevent_a_command(closed: str, tiny_artifact: Path) -> None:
    command = [sys.executable, "-m", "tuneport", "verify", str(tiny_artifact)]
    script = f'exec "$@" {closed}'
    done = subprocess.run(["sh", "-c", script, "sh", *command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "fp32: files intact; golden cases match" in done.stdout


def test_files_do_not_get_the_descriptors_of_closed_streams() -> None:
    script = "from tuneport.cli.main import open_closed_streams; import sys; open_closed_streams(); "
    script += "file = open('/dev/null'); sys.exit(file.fileno() < 3 or sys.stderr is None)"
    command = ["sh", "-c", 'exec "$@" 0<&- 1>&- 2>&-', "sh", sys.executable, "-c", script]
    assert subprocess.run(command, cwd=ROOT, check=False).returncode == 0
