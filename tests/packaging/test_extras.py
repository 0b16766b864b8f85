"""What an installation brings: a server without torch, and extras for the commands that need more."""

import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterable
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from kit import ROOT
from kit.artifacts import of_devices
from kit.command import tuneport
from kit.imports import external_packages, import_graph, sources
from packaging.requirements import Requirement

from tuneport import extras
from tuneport.errors import TuneportError
from tuneport.extras import packages_of, require_extras
from tuneport.schema.loading import load_manifest

BASE = [Requirement(line).name for line in importlib.metadata.requires("tuneport") or () if "extra ==" not in line]
ENGINES = {"onnxruntime", "openvino"}
OPTIONAL = {"adapters", "grpc_tools"}
"""Imported behind a check of their own, which names the remedy."""
COMMANDS = ("serve", "predict", "verify", "inspect", "build")
COMMANDS_OF = {"train": ("finetune", "search", "average"), "export": ("export", "combine", "bench", "bench_endpoint")}


def reachable(roots: Iterable[str]) -> set[str]:
    """Return the modules that some modules import, imports inside functions included."""
    graph, waiting, found = import_graph(), list(roots), set[str]()
    while waiting:
        if (module := waiting.pop()) not in found:
            found.add(module)
            waiting += graph[module]
    return found


def modules_of(distributions: Iterable[str]) -> set[str]:
    """Return the top-level names that packages and, in turn, their requirements install."""
    wanted, seen = [name.lower().replace("_", "-") for name in distributions], set[str]()
    while wanted:
        if (name := wanted.pop()) not in seen:
            seen.add(name)
            try:
                declared = map(Requirement, importlib.metadata.requires(name) or ())
            except importlib.metadata.PackageNotFoundError:  # the packages of another platform or extra
                continue
            wanted += [
                each.name.lower().replace("_", "-")
                for each in declared
                if each.marker is None or each.marker.evaluate({"extra": ""})
            ]
    return {
        module
        for module, owners in packages_distributions().items()
        if any(owner.lower().replace("_", "-").replace(".", "-") in seen for owner in owners)
    }


def imported_outside(modules: Iterable[str], allowed: set[str]) -> list[str]:
    allowed |= {*sys.stdlib_module_names, *ENGINES, *OPTIONAL, "google"}
    return sorted(
        f"{module} imports {name}"
        for module in modules
        for name in external_packages(module) - allowed
        if not module.startswith("tuneport.cli.main")
    )


def test_a_server_imports_what_the_base_and_the_extra_for_generative_models_install() -> None:
    modules = reachable(["tuneport.stages.serve.service", *(f"tuneport.cli.{name}" for name in ("serve", "predict"))])
    tasks = {module for module in sources() if module.startswith("tuneport.runtime.tasks.")}
    assert imported_outside(modules | tasks, modules_of([*BASE, *packages_of("generate")])) == []


@pytest.mark.parametrize("extra", COMMANDS_OF)
def test_an_extra_brings_what_its_commands_import(extra: str) -> None:
    modules = reachable(f"tuneport.cli.{name}" for name in COMMANDS_OF[extra])
    modules -= {"tuneport.cli.main"}
    assert imported_outside(modules, modules_of([*BASE, *packages_of(extra)])) == []


def test_the_base_has_none_of_the_heavy_packages() -> None:
    assert {"torch", "transformers", "datasets", "peft", "matplotlib", "optimum", "onnx"}.isdisjoint(modules_of(BASE))


def test_the_extra_for_all_commands_names_the_others() -> None:
    [line] = [line for line in importlib.metadata.requires("tuneport") or () if 'extra == "all"' in line]
    assert Requirement(line).extras == {"export", "generate", "openvino", "train"}


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("finetune", "--task", "text-classification", "--model", "m", "--data", "d", "--out", "o"),
         "error: fine-tuning needs accelerate; pip install 'tuneport[train]'"),
        (("search", "--space", "s.toml", "--out", "o"),
         "error: the search needs accelerate; pip install 'tuneport[train]'"),
        (("average", "a", "b", "--out", "o"), "error: averaging needs accelerate; pip install 'tuneport[train]'"),
        (("export", "x", "--out", "o"), "error: the export needs datasets; pip install 'tuneport[export]'"),
        (("combine", "x", "y", "--out", "o"),
         "error: combining artifacts needs datasets; pip install 'tuneport[export]'"),
        (("bench", "x", "--out", "o"), "error: the benchmark needs datasets; pip install 'tuneport[export]'"),
        (("bench-endpoint", "x", "--out", "o"), "error: the benchmark needs datasets; pip install 'tuneport[export]'"),
        (("demo", "--out", "o"), "error: the demo needs datasets; pip install 'tuneport[demo,export,train]'"),
    ],
)  # fmt: skip
def test_a_command_without_its_extra_names_it_in_one_line(
    arguments: tuple[str, ...], line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extras, "_is_installed", lambda name: name not in ("accelerate", "datasets"))
    done = tuneport(*arguments)
    assert (done.code, done.err.strip()) == (1, line)


def test_the_python_api_names_the_extra_too(monkeypatch: pytest.MonkeyPatch) -> None:
    import tuneport as api

    monkeypatch.setattr(extras, "_is_installed", lambda name: name != "torch")
    with pytest.raises(TuneportError, match=r"fine-tuning needs torch; pip install 'tuneport\[train\]'"):
        api.finetune(task="regression", model="m", data="d", out="o")
    with pytest.raises(TuneportError, match=r"the export needs torch; pip install 'tuneport\[export\]'"):
        api.export("c", out="o")


def test_what_is_installed_passes() -> None:
    require_extras("everything", "train", "export", "generate")


def test_without_an_engine_its_extra_is_named(tiny_artifact: Path) -> None:
    script = f"""
import sys
sys.modules["onnxruntime"] = None
from tuneport.runtime.predictor import Predictor
from tuneport.errors import EngineError
from pathlib import Path
try:
    Predictor(Path({str(tiny_artifact)!r}), "fp32")
except EngineError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    assert "needs ONNX Runtime; install tuneport[cpu] or tuneport[gpu]" in done.stdout


def test_verify_passes_over_an_engine_that_is_not_installed(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    of_devices(load_manifest(artifact), ("fp32", {}), ("other", {"engine": "openvino"})).save(artifact)
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "openvino" else find(name))
    done = tuneport("verify", str(artifact))
    assert done.code == 0
    assert "other: files intact; golden cases not run, because it needs the package openvino" in done.out
    assert "fp32: files intact; golden cases match" in done.out


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_server_is_installed_without_torch(tiny_artifact: Path, tmp_path: Path) -> None:
    """Install the base with an engine from the package index into an empty environment; answer there as here."""
    from kit.hostile import ask_server

    python = tmp_path / "environment" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", str(python.parents[1])], check=True)
    install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*install, "-c", "constraints.txt", ".[cpu]"], cwd=ROOT, check=True)
    listed = subprocess.check_output([str(python), "-m", "pip", "list", "--format", "json"], text=True)
    installed = {each["name"].lower() for each in json.loads(listed)}
    assert {"tuneport", "onnxruntime", "bentoml"} <= installed
    assert installed.isdisjoint({"torch", "transformers", "datasets", "peft", "matplotlib", "optimum", "openvino"})

    command = str(python.with_name("tuneport"))
    environment = {**os.environ, "BENTOML_HOME": str(tmp_path / "bentoml"), "TUNEPORT_GRPC_PORT": "0"}
    texts = ["bank", "the team won"]
    answers = subprocess.check_output([command, "predict", str(tiny_artifact), *texts], text=True, env=environment)
    assert answers == tuneport("predict", str(tiny_artifact), *texts).out
    for name in ("verify", "inspect", "build"):
        subprocess.run([command, name, str(tiny_artifact)], cwd=tmp_path, env=environment, check=True)
    refused = subprocess.run(
        [command, "export", "x", "--out", "y"], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert refused.returncode == 1
    assert refused.stderr == "error: the export needs datasets; pip install 'tuneport[export]'\n"
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        assert ask_server(tmp_path, [command, "serve", str(tiny_artifact)])
