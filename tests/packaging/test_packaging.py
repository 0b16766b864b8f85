"""What a bento packs and installs agrees with the code and with constraints.txt."""

import fnmatch
import re
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml
from helpers import ROOT
from test_imports import imports


def pins(file: Path) -> dict[str, str]:
    lines = [line.strip() for line in file.read_text().splitlines()]
    found = [re.fullmatch(r"([a-z0-9-]+)==(\S+)", line) for line in lines if line and not line.startswith("#")]
    assert None not in found, f"{file.name} has a line that pins nothing"
    return {match[1]: match[2] for match in found if match}


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-generate.txt"])
def test_the_image_gets_the_versions_that_were_tested(name: str) -> None:
    image, constraints = pins(ROOT / "serve" / name), pins(ROOT / "constraints.txt")
    assert {name: constraints.get(name) for name in image} == image


def test_the_image_has_neither_torch_nor_transformers() -> None:
    image = pins(ROOT / "serve" / "requirements.txt")
    assert {"bentoml", "onnxruntime", "tokenizers", "numpy", "orjson", "uvloop"} <= image.keys()
    assert image.keys().isdisjoint({"torch", "transformers", "onnx", "optimum", "datasets", "scikit-learn"})


@pytest.mark.parametrize("name", ["torch", "transformers", "onnxruntime", "bentoml", "optimum-onnx", "tokenizers"])
def test_the_tests_run_with_the_pinned_versions(name: str) -> None:
    assert version(name).partition("+")[0] == pins(ROOT / "constraints.txt")[name]


def test_the_bento_includes_every_module_that_the_service_imports() -> None:
    packed = yaml.safe_load((ROOT / "bentofile.yaml").read_text())["include"]
    tasks = [str(file.relative_to(ROOT)) for file in (ROOT / "serve" / "tasks").glob("*.py")]  # imported by name
    waiting, seen = ["serve/service.py", *tasks], set()
    while waiting:
        file = waiting.pop()
        if file in seen:
            continue
        seen.add(file)
        package = ".".join(Path(file).parent.parts)
        for name in imports((ROOT / file).read_text(), package):
            # The longest beginning of the name that is a module.
            parts = name.split(".")
            for end in range(len(parts), 0, -1):
                base = "/".join(parts[:end])
                found = [each for each in (f"{base}.py", f"{base}/__init__.py") if (ROOT / each).is_file()]
                if found:
                    waiting += [*found, f"{parts[0]}/__init__.py"]
                    break
    assert "tuneport/schema/artifact.py" in seen
    assert "tuneport/runtime/tasks/text_classification.py" in seen
    assert [file for file in sorted(seen) if not any(fnmatch.fnmatch(file, pattern) for pattern in packed)] == []


def test_a_built_bento_holds_no_more_than_serving_needs(bento_tag: str) -> None:
    import bentoml

    source = Path(bentoml.bentos.get(bento_tag).path) / "src"
    files = {str(path.relative_to(source)) for path in source.rglob("*.py")}
    assert "serve/service.py" in files
    assert {file.partition("/")[0] for file in files} == {"serve", "export"}
    assert {file for file in files if file.startswith("export/")} == {
        "export/__init__.py",
        "tuneport/folders.py",
        "tuneport/host.py",
        "tuneport/schema/artifact.py",
    }
