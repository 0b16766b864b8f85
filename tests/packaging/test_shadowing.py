"""Every command and the bento run in a folder whose finetune.py, export.py, serve.py, benchmarks.py and tests.py raise.

`tuneport demo` and `tuneport bench-endpoint` do so in test_wheel.py.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from kit.data import QUICK
from kit.hostile import NAMES, ask_server, write_hostile_modules

RUN_COMMANDS = """
import functools, json, sys
from tuneport.cli.main import main
from tuneport.stages.export import groups
groups.measure, groups.TIMED_ROWS = functools.partial(groups.measure, rounds=1), 4
for arguments in json.loads(sys.argv[1]):
    sys.argv = ["tuneport", *arguments]
    try:
        main()
    except SystemExit as end:
        if end.code:
            sys.exit(f"{arguments} exited with {end.code}")
"""
"""One process for all, since each would import torch, and few timed rows. `python -c` puts the working directory first
in sys.path.
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_hostile_modules(tmp_path / "user")


def test_the_modules_raise(folder: Path) -> None:
    for name in NAMES:
        done = subprocess.run([sys.executable, "-c", f"import {name}"], cwd=folder, capture_output=True, text=True)
        assert f"{name}.py of the user was imported" in done.stderr


@pytest.mark.slow
def test_every_command_ignores_modules_of_the_working_directory(
    folder: Path, tiny_checkpoint: Path, tiny_data: Path, tiny_artifact: Path
) -> None:
    (folder / "space.toml").write_text("learning_rate = {low = 1e-5, high = 1e-4}\n")
    settings = [f"--set={name}={json.dumps(value)}" for name, value in QUICK.items()]
    source = ["--task=text-classification", f"--model={tiny_checkpoint}", f"--data={tiny_data}", *settings]
    artifact = str(tiny_artifact)
    commands = [
        ["finetune", "--out=run", *source],
        ["search", "--out=search", "--space=space.toml", "--trials=1", *source],
        ["average", "run", "run", "--out=average", "--allow-repeated-runs"],
        ["export", "run", "--out=artifact", "--variants=fp32"],
        ["predict", artifact, "bank"],
        ["verify", artifact],
        ["inspect", artifact],
        ["bench", artifact, "--out=report", "--num-inputs=8", "--rounds=1", "--shapes=1x8"],
        ["build", artifact],
    ]
    done = subprocess.run(
        [sys.executable, "-c", RUN_COMMANDS, json.dumps(commands)],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert {"run", "search", "average", "artifact", "report"} <= {path.name for path in folder.iterdir()}


def test_tuneport_serve_ignores_even_modules_with_names_of_libraries(folder: Path, tiny_artifact: Path) -> None:
    """The service runs in an empty folder, since BentoML puts its working directory first in sys.path."""
    (folder / "tokenizers.py").write_text("raise RuntimeError\n")
    script = Path(sys.executable).with_name("tuneport")
    assert ask_server(folder, [str(script), "serve", str(tiny_artifact), "--grpc-port=0"])


def test_a_bento_ignores_modules_of_the_working_directory(
    folder: Path, bento_tag: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNEPORT_GRPC_PORT", "0")
    assert ask_server(folder, [sys.executable, "-m", "bentoml", "serve", bento_tag])
