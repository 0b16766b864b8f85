"""The wheel: one top-level name, every data file, and the commands in an environment without the checkout."""

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest
from kit import ROOT
from kit.hostile import ask_server, write_hostile_modules
from kit.imports import sources

SOURCES = ("tuneport", "finetune", "export", "serve", "benchmarks")
FILES = ("pyproject.toml", "README.md", "LICENSE", "bentofile.yaml", "constraints.txt")
DATA = {
    "tuneport/doctor/constraints.txt",
    "tuneport/py.typed",
    "tuneport/stages/finetune/report.html.j2",
    "tuneport/stages/serve/bentofile.yaml",
    "tuneport/stages/serve/Dockerfile.j2",
    "tuneport/stages/serve/requirements.txt",
    "tuneport/stages/serve/requirements-openvino.txt",
    "tuneport/stages/serve/requirements-generate.txt",
    "tuneport/stages/serve/requirements-generate-gpu.txt",
    "tuneport/stages/serve/requirements-gpu.txt",
    "tuneport/stages/serve/requirements-tensorrt.txt",
    "tuneport/stages/serve/grpc/open_inference.proto",
    *(
        f"tuneport/stages/serve/http/playground/{name}"
        for name in ("page.html", "style.css", "request.js", "predictions.js", "snippets.js", "card.js", "start.js")
    ),
}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy the sources, since setuptools leaves files where it builds."""
    copy = tmp_path_factory.mktemp("checkout")
    for name in SOURCES:
        shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in FILES:
        shutil.copyfile(ROOT / name, copy / name)
    return copy


@pytest.fixture(scope="module")
def wheel(checkout: Path) -> Path:
    options = ["--no-deps", "--no-build-isolation", "--quiet", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "wheel", *options, "--wheel-dir", "dist", "."]
    subprocess.run(command, cwd=checkout, check=True, capture_output=True, text=True)
    [file] = (checkout / "dist").glob("*.whl")
    return file


def test_the_wheel_installs_one_name_with_every_module_and_data_file(checkout: Path, wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        files = {name for name in archive.namelist() if ".dist-info/" not in name}
        [metadata] = {name.partition("/")[0] for name in archive.namelist()} - {"tuneport"}
        assert archive.read(f"{metadata}/top_level.txt").decode().split() == ["tuneport"]
        assert all(archive.read(name) == (checkout / name).read_bytes() for name in DATA)
    modules = {name.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for name in files - DATA}
    assert modules == set(sources(checkout))


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_the_commands_work_from_the_wheel_alone(wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment has the wheel and the libraries of this one, but not the checkout; the folder is hostile."""
    scripts = install(wheel, tmp_path / "environment")
    folder = write_hostile_modules(tmp_path / "user")
    environment = {**os.environ, "BENTOML_HOME": str(tmp_path / "bentoml")}

    def run(*arguments: str) -> str:
        return check_output([str(scripts / arguments[0]), *arguments[1:]], folder, environment)

    where = run("python", "-c", "import tuneport.stages.serve as stage; print(stage.__file__)")
    assert where.startswith(str(tmp_path / "environment"))
    assert "error" in run("python", "-c", "try:\n import benchmarks.engine\nexcept Exception: print('error')")

    run("tuneport", "demo", "--out", "demo")
    assert '"label": "business"' in run("tuneport", "predict", "demo/artifact", "Shares rose after the bank's forecast")
    run("tuneport", "verify", "demo/artifact")
    run("tuneport", "export", "demo/run", "--out", "artifact", "--variants", "fp32")
    tag = run("tuneport", "build", "artifact").split()[1].rstrip(";")
    run("tuneport", "bench-endpoint", "artifact", "--out", "report", "--connections", "2", "--seconds", "1",
        "--rounds", "1", "--num-inputs", "20")  # fmt: skip
    monkeypatch.setenv("BENTOML_HOME", environment["BENTOML_HOME"])
    monkeypatch.setenv("TUNEPORT_GRPC_PORT", "0")
    assert ask_server(folder, [str(scripts / "tuneport"), "serve", "artifact"])
    assert ask_server(folder, [str(scripts / "python"), "-m", "bentoml", "serve", tag])


def install(wheel: Path, environment: Path) -> Path:
    """Make an environment of the wheel and the libraries of this one; returns the folder of its scripts."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    scripts = environment / "bin"
    command = [sys.executable, "-m", "pip", "--python", str(scripts / "python"), "install", "--no-deps", "--quiet"]
    subprocess.run([*command, str(wheel)], check=True, capture_output=True)
    # A .pth file adds the folder without reading the .pth files in it, of which one leads to the checkout.
    [packages] = environment.glob("lib/python*/site-packages")
    (packages / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return scripts


def check_output(command: list[str], folder: Path, environment: Mapping[str, str]) -> str:
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout
