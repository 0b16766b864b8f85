"""What a bento packs and installs agrees with the code and with constraints.txt."""

import json
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from kit import ROOT
from kit.artifacts import of_devices
from kit.imports import import_graph, packages

from tuneport.schema.artifact import Manifest
from tuneport.schema.loading import load_manifest
from tuneport.stages.serve.bento import build, register, requirements_for

STAGE = "tuneport.stages.serve"


def pins(file: Path) -> dict[str, str]:
    lines = [line.strip() for line in file.read_text().splitlines()]
    found = [re.fullmatch(r"([a-z0-9-]+)==(\S+)", line) for line in lines if line and not line.startswith("#")]
    assert None not in found, f"{file.name} has a line that pins nothing"
    return {match[1]: match[2] for match in found if match}


def packed_files(tag: str) -> set[str]:
    """Return the files of a bento's source, without byte code."""
    import bentoml

    source = Path(bentoml.bentos.get(tag).path) / "src"
    return {str(path.relative_to(source)) for path in source.rglob("*") if path.is_file() and path.suffix != ".pyc"}


def file_of(module: str) -> str:
    """Return where a module is in a bento: the stage lies beside the core."""
    path = module.replace(STAGE, "serve", 1).replace(".", "/")
    return f"{path}/__init__.py" if module in packages() else f"{path}.py"


IMAGES = sorted(path.name for path in (ROOT / "serve").glob("requirements*.txt"))


@pytest.mark.parametrize("name", IMAGES)
def test_the_image_gets_the_versions_that_were_tested(name: str) -> None:
    image, constraints = pins(ROOT / "serve" / name), pins(ROOT / "constraints.txt")
    assert {name: constraints.get(name) for name in image} == image


@pytest.mark.parametrize(
    ("name", "engine"),
    [
        ("requirements.txt", {"onnxruntime"}),
        ("requirements-gpu.txt", {"onnxruntime-gpu", "nvidia-cuda-runtime", "nvidia-cudnn-cu13"}),
        ("requirements-tensorrt.txt", {"onnxruntime-gpu", "nvidia-cudnn-cu13", "tensorrt-cu13-libs"}),
    ],
)
def test_the_image_has_its_engine_and_neither_torch_nor_transformers(name: str, engine: set[str]) -> None:
    image = pins(ROOT / "serve" / name)
    assert {"bentoml", "tokenizers", "numpy", "orjson", "uvloop", *engine} <= image.keys()
    assert len({"onnxruntime", "onnxruntime-gpu"} & image.keys()) == 1  # both install the same folder
    assert image.keys().isdisjoint({"torch", "transformers", "onnx", "optimum", "datasets", "scikit-learn"})


@pytest.mark.parametrize("name", ["torch", "transformers", "onnxruntime", "bentoml", "optimum-onnx", "tokenizers"])
def test_the_tests_run_with_the_pinned_versions(name: str) -> None:
    assert version(name).partition("+")[0] == pins(ROOT / "constraints.txt")[name]


@pytest.mark.parametrize("name", ["requirements", "requirements-generate"])
def test_an_image_for_gpus_differs_in_its_engine_alone(name: str) -> None:
    cpu, gpu = (pins(ROOT / "serve" / f"{name}{target}.txt") for target in ("", "-gpu"))
    assert cpu.items() - gpu.items() == {("onnxruntime", cpu["onnxruntime"])}
    assert all(package.startswith("nvidia-") or package == "onnxruntime-gpu" for package in gpu.keys() - cpu.keys())


def test_a_bento_has_every_module_that_the_service_imports(bento_tag: str) -> None:
    graph = import_graph()
    by_name = [module for module in graph if module.startswith("tuneport.runtime.tasks.")]  # the registry imports them
    waiting, needed = [f"{STAGE}.service", *by_name], set()
    while waiting:
        if (module := waiting.pop()) not in needed:
            needed.add(module)
            waiting += graph[module]
    assert {"tuneport.schema.artifact", f"{STAGE}.http.app"} <= needed
    needed |= {package for package in packages() if any(module.startswith(f"{package}.") for module in needed)}
    assert sorted({file_of(module) for module in needed} - packed_files(bento_tag)) == []


def test_a_bento_holds_no_more_than_serving_needs(bento_tag: str) -> None:
    files = packed_files(bento_tag)
    assert {file.partition("/")[0] for file in files} == {"serve", "tuneport", "bentofile.yaml"}
    assert {file.split("/")[1] for file in files if file.startswith("tuneport/")} == {
        "__init__.py", "errors.py", "folders.py", "gpu.py", "host.py", "py.typed", "runtime", "schema", "scripts.py",
        "stages", "tags.py", "tasks.py", "telemetry.py", "version.py",
    }  # fmt: skip
    assert {file for file in files if file.startswith("tuneport/stages/")} == {"tuneport/stages/__init__.py"}


def test_the_code_of_a_bento_is_its_own(bento_tag: str) -> None:
    """In an image no tuneport is installed: the stage is found beside the core."""
    import bentoml

    source = Path(bentoml.bentos.get(bento_tag).path) / "src"
    script = f"""
import json, sys
sys.path.insert(0, {str(source)!r})
sys.meta_path[:] = [finder for finder in sys.meta_path if "Editable" not in repr(finder)]
import tuneport.stages.serve.http.app as app, tuneport.runtime.predictor as predictor
print(json.dumps([app.__file__, predictor.__file__]))
"""
    done = subprocess.run([sys.executable, "-I", "-c", script], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [
        str(source / "serve/http/app.py"),
        str(source / "tuneport/runtime/predictor.py"),
    ]


def test_bentoml_build_in_a_checkout_packs_the_same(tiny_artifact: Path, bento_tag: str) -> None:
    import bentoml

    bento = bentoml.bentos.build_bentofile(
        str(ROOT / "bentofile.yaml"), build_ctx=str(ROOT), args={"model": register(tiny_artifact)}, reload=True
    )
    assert packed_files(str(bento.tag)) == packed_files(bento_tag)
    assert bento.info.all_models == bentoml.bentos.get(bento_tag).info.all_models


def test_each_bento_of_one_process_has_its_own_model(artifact: Path, bento_tag: str) -> None:
    load_manifest(artifact).model_copy(update={"name": "another"}).save(artifact)
    bento = build(artifact)
    assert [str(model.tag) for model in bento.info.all_models] == [register(artifact)]


@pytest.mark.parametrize(
    ("devices", "task", "file"),
    [
        (("cpu",), "text-classification", "requirements.txt"),
        (("cpu", "cuda"), "text-classification", "requirements-gpu.txt"),
        (("cuda", "tensorrt"), "text-classification", "requirements-tensorrt.txt"),
        (("cpu",), "text-generation", "requirements-generate.txt"),
        (("cuda",), "text-generation", "requirements-generate-gpu.txt"),
    ],
)
def test_an_image_installs_what_the_variants_need(
    manifest: Manifest, devices: tuple[str, ...], task: str, file: str
) -> None:
    variants = of_devices(manifest, *((device, {"device": device}) for device in devices))
    assert requirements_for(variants.model_copy(update={"task": task})) == f"serve/{file}"
    assert (ROOT / "serve" / file).is_file()


def test_the_bento_of_a_variant_for_a_gpu_installs_onnxruntime_for_gpus(artifact: Path) -> None:
    of_devices(load_manifest(artifact), ("fp32", {"device": "cuda"})).save(artifact)
    installed = pins(Path(build(artifact).path) / "env" / "python" / "requirements.txt")
    assert installed == pins(ROOT / "serve" / "requirements-gpu.txt")


def test_a_build_that_fails_leaves_nothing(tiny_artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import bentoml
    from bentoml._internal.configuration.containers import BentoMLContainer

    home = Path(BentoMLContainer.bentoml_home.get())

    def fail(*_: object, **__: object) -> None:
        (home / "tmp" / "half-built").mkdir(parents=True)
        raise KeyboardInterrupt

    monkeypatch.setattr(bentoml.bentos, "build_bentofile", fail)
    with pytest.raises(KeyboardInterrupt):
        build(tiny_artifact)
    assert not (home / "tmp" / "half-built").exists()
