"""What a bento packs and installs agrees with the code and with constraints.txt."""

import json
import os
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from kit import ROOT
from kit.artifacts import change_byte, of_devices, packed_model
from kit.command import assert_one_line, tuneport
from kit.imports import import_graph, packages
from kit.servers import Server

from tuneport.errors import ArtifactError, TuneportError
from tuneport.folders import sha256
from tuneport.runtime.predictor import Predictor
from tuneport.schema.artifact import MANIFEST, Manifest
from tuneport.schema.loading import check_files, load_manifest
from tuneport.stages.serve import bento as bento_module
from tuneport.stages.serve.bento import build, register
from tuneport.stages.serve.packing import requirements_for, serving_variants

STAGE = "tuneport.stages.serve"


def pins(file: Path) -> dict[str, str]:
    """Read name → version; without comments, options and hashes every line is a pin."""
    lines = [line.strip().removesuffix("\\").strip() for line in file.read_text().splitlines()]
    found = [re.fullmatch(r"([a-z0-9-]+)==(\S+)", line) for line in lines if line and not line.startswith(("#", "--"))]
    assert None not in found, f"{file.name} has a line that pins nothing"
    return {match[1]: match[2] for match in found if match}


def packed_files(tag: str) -> set[str]:
    """Return the files of a bento's source, without byte code."""
    import bentoml

    source = Path(bentoml.bentos.get(tag).path) / "src"
    return {str(path.relative_to(source)) for path in source.rglob("*") if path.is_file() and path.suffix != ".pyc"}


def dockerfile(bento: Any) -> str:
    return (Path(bento.path) / "env" / "docker" / "Dockerfile").read_text()


def file_of(module: str) -> str:
    """Return where a module is in a bento: the stage lies beside the core."""
    path = module.replace(STAGE, "serve", 1).replace(".", "/")
    return f"{path}/__init__.py" if module in packages() else f"{path}.py"


IMAGES = sorted(path.name for path in (ROOT / "serve").glob("requirements*.txt"))


@pytest.mark.parametrize("name", IMAGES)
def test_the_image_gets_the_versions_that_were_tested(name: str) -> None:
    """One set of CUDA's libraries serves with torch's build for CUDA and without."""
    assert pins(ROOT / "serve" / name).items() - pins(ROOT / "constraints.txt").items() == set()


def test_an_environment_for_gpus_can_be_installed_under_the_constraints() -> None:
    """Torch's build for CUDA wants exact versions of CUDA's libraries: those that were resolved with it."""
    makefile = (ROOT / "Makefile").read_text()
    guide = (ROOT / "docs" / "howto" / "gpu.md").read_text()
    extras = re.findall(r"\$\(call install,\$\(GPU_VENV\),(\S+)\)", makefile) + re.findall(r"-e '\.\[(\S+)\]'", guide)
    assert len(extras) == 2
    for each in extras:
        assert {"gpu", "train", "export"} <= set(re.split(r"\$\(COMMA\)|,", each))
    assert "pip install -c constraints.txt" in guide
    resolved = pins(ROOT / "serve" / "requirements-generate-gpu.txt")
    cuda = {name for name in resolved if name.startswith(("nvidia-", "cuda-"))}
    assert {"nvidia-cuda-runtime", "nvidia-cublas", "nvidia-cudnn-cu13", "cuda-toolkit"} <= cuda
    constraints = pins(ROOT / "constraints.txt")
    assert {name: constraints[name] for name in cuda} == {name: resolved[name] for name in cuda}
    assert (
        resolved["nvidia-cuda-runtime"].rpartition(".")[0]
        == resolved["cuda-toolkit"].rpartition(".")[0].rpartition(".")[0]
    )


@pytest.mark.parametrize("name", IMAGES)
def test_every_package_of_an_image_is_pinned_with_hashes(name: str) -> None:
    text = (ROOT / "serve" / name).read_text()
    assert "--require-hashes\n" in text
    assert "://" not in text  # no package index is named
    for entry in re.split(r"\n(?=[a-z0-9])", text.partition("--only-binary :all:\n")[2]):
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", entry), entry


@pytest.mark.parametrize(
    ("name", "engine"),
    [
        ("requirements.txt", {"onnxruntime"}),
        ("requirements-openvino.txt", {"onnxruntime", "openvino"}),
        ("requirements-gpu.txt", {"onnxruntime-gpu", "nvidia-cuda-runtime", "nvidia-cudnn-cu13"}),
        ("requirements-tensorrt.txt", {"onnxruntime-gpu", "nvidia-cudnn-cu13", "tensorrt-cu13-libs"}),
    ],
)
def test_the_image_has_its_engine_and_neither_torch_nor_transformers(name: str, engine: set[str]) -> None:
    image = pins(ROOT / "serve" / name)
    assert {"bentoml", "tokenizers", "numpy", "orjson", "uvloop", *engine} <= image.keys()
    assert len({"onnxruntime", "onnxruntime-gpu"} & image.keys()) == 1  # both install the same folder
    assert ("openvino" in image) == ("openvino" in engine)
    assert image.keys().isdisjoint({"torch", "transformers", "onnx", "optimum", "datasets", "scikit-learn"})


@pytest.mark.parametrize("name", ["torch", "transformers", "onnxruntime", "bentoml", "optimum-onnx", "tokenizers"])
def test_the_tests_run_with_the_pinned_versions(name: str) -> None:
    assert version(name).partition("+")[0] == pins(ROOT / "constraints.txt")[name]


@pytest.mark.parametrize("name", ["requirements", "requirements-generate"])
def test_an_image_for_gpus_differs_in_its_engine_alone(name: str) -> None:
    cpu, gpu = (pins(ROOT / "serve" / f"{name}{target}.txt") for target in ("", "-gpu"))
    assert {package for package, _ in cpu.items() - gpu.items() if not package.startswith("nvidia-")} == {"onnxruntime"}
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
    assert {Path(file).suffix for file in files} == {".css", ".html", ".js", ".py", ".txt", ".typed", ".yaml"}
    assert {file.split("/")[1] for file in files if file.startswith("tuneport/")} == {
        "__init__.py", "errors.py", "folders.py", "gpu", "host.py", "memory.py", "py.typed", "runtime", "schema",
        "scripts.py", "signing.py", "stages", "tags.py", "tasks.py", "telemetry.py", "version.py",
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


def test_bentoml_build_in_a_checkout_packs_the_same(
    tiny_artifact: Path, bento_tag: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import bentoml

    monkeypatch.chdir(ROOT)
    bento = bentoml.bentos.build_bentofile(
        str(ROOT / "bentofile.yaml"), build_ctx=str(ROOT), args={"model": register(tiny_artifact)}, reload=True
    )
    built = bentoml.bentos.get(bento_tag)
    assert packed_files(str(bento.tag)) == packed_files(bento_tag)
    assert bento.info.all_models == built.info.all_models
    assert bento.info.labels == built.info.labels
    assert dockerfile(bento) == dockerfile(built)


def test_a_secret_below_the_service_is_not_packed(tiny_artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = (".env", "key.pem", "id_rsa", "api_keys.txt", "settings.json", "http/.env.production", "__init__.py.key")
    original = bento_module.write_build_context

    def with_secrets(folder: Path) -> None:
        original(folder)
        for name in secrets:
            for place in (folder / "serve", folder / "tuneport"):
                (place / name).parent.mkdir(exist_ok=True)
                (place / name).write_text("secret")

    monkeypatch.setattr(bento_module, "write_build_context", with_secrets)
    bento = build(tiny_artifact)
    assert not [file for file in Path(bento.path).rglob("*") if file.is_file() and file.read_bytes() == b"secret"]
    assert packed_files(str(bento.tag))


def test_each_bento_of_one_process_has_its_own_model(artifact: Path, bento_tag: str) -> None:
    load_manifest(artifact).model_copy(update={"name": "another"}).save(artifact)
    bento = build(artifact)
    assert [load_manifest(packed_model(bento)).name] == ["another"]
    assert bento.info.labels["name"] == "another"


def test_a_bento_and_its_image_name_the_manifest(tiny_artifact: Path, manifest: Manifest, bento_tag: str) -> None:
    import bentoml

    bento, digest = bentoml.bentos.get(bento_tag), sha256(tiny_artifact / MANIFEST)
    assert bento.info.labels["manifest_sha256"] == digest
    text = dockerfile(bento)
    assert f'org.opencontainers.image.title="{manifest.name}"' in text
    assert f'org.opencontainers.image.version="{manifest.version}"' in text
    assert f'io.tuneport.manifest-sha256="{digest}"' in text


def test_the_image_is_small_and_unprivileged(bento_tag: str) -> None:
    import bentoml

    text = dockerfile(bentoml.bentos.get(bento_tag))
    assert "\nUSER 1034:1034\n" in text
    assert "HEALTHCHECK" in text
    assert text.rindex("USER") > text.rindex("RUN")
    assert "ARG BASE_IMAGE=" in text
    assert not re.search(r"apt-get|build-essential|\bgit\b|chown", text)
    final = text.rpartition("FROM ")[2]
    assert "pip" not in final  # of the packages the final stage takes the result alone
    assert "PIP_INDEX_URL" not in final


def test_an_image_installs_what_the_variants_need(manifest: Manifest) -> None:
    cases = [
        ([{"device": "cpu"}], "text-classification", "requirements.txt"),
        ([{"device": "cpu"}, {"engine": "openvino"}], "text-classification", "requirements-openvino.txt"),
        ([{"device": "cpu"}, {"device": "cuda"}], "text-classification", "requirements-gpu.txt"),
        ([{"device": "cuda"}, {"device": "tensorrt"}], "text-classification", "requirements-tensorrt.txt"),
        ([{"device": "cpu"}], "text-generation", "requirements-generate.txt"),
        ([{"device": "cuda"}], "text-generation", "requirements-generate-gpu.txt"),
    ]
    for executions, task, file in cases:
        variants = of_devices(manifest, *((f"v{i}", each) for i, each in enumerate(executions)))
        assert requirements_for(variants.model_copy(update={"task": task})) == file
        assert (ROOT / "serve" / file).is_file()
    mixed = of_devices(manifest, ("a", {"device": "cuda"}), ("b", {"engine": "openvino"}))
    with pytest.raises(TuneportError, match=r"no image with OpenVINO beside CUDA"):
        requirements_for(mixed)


@pytest.mark.parametrize(
    ("executions", "packed"),
    [
        ([("fp32", {"precision": "fp32"}), ("int8", {"precision": "int8"})], ("fp32",)),
        ([("int8", {"precision": "int8"}), ("fp32", {"precision": "fp32"})], ("int8", "fp32")),
        ([("int8", {"precision": "int8"}), ("ov", {"engine": "openvino", "precision": "fp32"})], ("int8", "ov")),
        (
            [
                ("ov8", {"engine": "openvino", "precision": "int8"}),
                ("ov", {"engine": "openvino", "precision": "fp32"}),
                ("fp32", {"precision": "fp32"}),
            ],
            ("ov8", "ov"),
        ),
        (
            [
                ("cuda", {"device": "cuda", "precision": "fp16"}),
                ("ov", {"engine": "openvino", "precision": "fp32"}),
                ("fp32", {"precision": "fp32"}),
                ("int8", {"precision": "int8"}),
            ],
            ("cuda", "fp32"),
        ),
        ([("int8", {"precision": "int8"}), ("bf16", {"engine": "openvino", "precision": "bf16"})], ("int8",)),
    ],
)
def test_the_variant_that_serves_and_its_fallback_are_packed(
    manifest: Manifest, executions: list[tuple[str, dict[str, str]]], packed: tuple[str, ...]
) -> None:
    assert serving_variants(of_devices(manifest, *executions)) == packed


def test_the_bento_of_a_variant_for_a_gpu_installs_onnxruntime_for_gpus(artifact: Path) -> None:
    of_devices(load_manifest(artifact), ("fp32", {"device": "cuda"})).save(artifact)
    installed = packed_model(build(artifact)) / "requirements.txt"
    assert installed.read_bytes() == (ROOT / "serve" / "requirements-gpu.txt").read_bytes()


def test_a_bento_holds_the_variants_that_are_asked_for(artifact: Path) -> None:
    """The whole artifact's manifest, version and seal stay, and the files of the others stay out."""
    whole = load_manifest(artifact)
    folder = packed_model(build(artifact, ["int8"]))
    packed = load_manifest(folder)
    assert [variant.name for variant in packed.variants] == ["int8"]
    assert packed.default_variant == "int8"
    assert packed.version == whole.version
    assert (folder / MANIFEST).read_bytes() == (artifact / MANIFEST).read_bytes()
    assert not (folder / "onnx" / "fp32").exists()
    with pytest.raises(ArtifactError, match=r"no variant 'fp32' \(it was left out of this bento"):
        packed.variant("fp32")
    assert Predictor(folder).predict(["bank"]) == Predictor(artifact, "int8").predict(["bank"])


def test_a_damaged_part_in_the_store_is_written_again(artifact: Path) -> None:
    load_manifest(artifact).model_copy(update={"default_because": "damaged"}).save(artifact)
    folder = packed_model(build(artifact, ["int8"]))
    change_byte(folder / "onnx" / "int8" / "model.onnx")
    assert packed_model(build(artifact, ["int8"])) == folder
    check_files(folder, load_manifest(folder))


def test_an_unknown_variant_is_one_line(artifact: Path) -> None:
    done = tuneport("build", str(artifact), "--variants", "int4")
    assert done.code == 1
    assert_one_line(done.err, "the artifact has no variant 'int4'", "choose one of: ")


def test_bentoml_build_with_an_empty_store_says_what_to_do(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bentoml", "build"]
    environment = {**os.environ, "BENTOML_HOME": str(tmp_path)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "has no artifact tuneport:latest; run `tuneport export" in done.stderr + done.stdout
    assert "Traceback" not in done.stderr + done.stdout


def test_the_health_check_asks_the_readiness_of_the_port_that_is_set(server: Server) -> None:
    script = str(ROOT / "serve" / "healthcheck.py")
    ports = {"PORT": server.url.rpartition(":")[2], "BENTOML_PORT": "1"}
    for changes, code in ((ports, 0), ({"BENTOML_PORT": "1"}, 1), ({**ports, "TUNEPORT_TLS_CERTFILE": "x"}, 1)):
        done = subprocess.run([sys.executable, "-I", script], env={**os.environ, **changes}, check=False)
        assert done.returncode == code


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
