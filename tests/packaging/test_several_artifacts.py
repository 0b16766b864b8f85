"""A bento of several artifacts: it names them all, installs what they all need, and serves each by its name."""

import json
import shutil
from pathlib import Path
from typing import Any

import httpx
import pytest
from kit.artifacts import of_devices, reseal
from kit.command import assert_one_line, tuneport

from tuneport.errors import TuneportError
from tuneport.folders import sha256
from tuneport.schema.artifact import MANIFEST, Manifest
from tuneport.schema.loading import load_manifest
from tuneport.stages.serve.bento import serve_command
from tuneport.stages.serve.packing import requirements_for
from tuneport.stages.serve.process import free_port, running


@pytest.fixture(scope="module")
def second(tiny_artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny artifact by another name and with other labels."""
    folder = Path(shutil.copytree(tiny_artifact, tmp_path_factory.mktemp("second") / "artifact"))
    reseal(folder, {"name": "second", "labels": ["one", "two", "three"]})
    return folder


@pytest.fixture(scope="module")
def bento(tiny_artifact: Path, second: Path) -> Any:
    import bentoml

    answer = tuneport("build", tiny_artifact, second, "--variants", "fp32", "--json")
    assert answer.code == 0, answer.err
    return bentoml.bentos.get(json.loads(answer.out)["tag"])


def test_the_bento_and_its_image_name_all_artifacts(bento: Any, tiny_artifact: Path, second: Path) -> None:
    folders = [Path(model.to_model().resolve().path) for model in bento.info.all_models]
    assert [load_manifest(folder).name for folder in folders] == ["tiny", "second"]
    hashes = ",".join(sha256(folder / MANIFEST) for folder in (tiny_artifact, second))
    labels = bento.info.labels
    assert (labels["name"], labels["manifest_sha256"], labels["task"]) == (
        "tiny,second", hashes, "text-classification,text-classification"
    )  # fmt: skip
    dockerfile = (Path(bento.path) / "env" / "docker" / "Dockerfile").read_text()
    assert 'org.opencontainers.image.title="tiny,second"' in dockerfile
    assert f'io.tuneport.manifest-sha256="{hashes}"' in dockerfile


def test_the_image_installs_what_all_artifacts_need(manifest: Manifest) -> None:
    plain = of_devices(manifest, ("a", {"device": "cpu"}))
    openvino = of_devices(manifest, ("b", {"engine": "openvino"}))
    generative = plain.model_copy(update={"task": "text-generation"})
    assert requirements_for(plain, openvino) == requirements_for(openvino, plain) == "requirements-openvino.txt"
    assert requirements_for(plain, generative) == "requirements-generate.txt"
    with pytest.raises(TuneportError, match="no image with OpenVINO beside CUDA or for generative models"):
        requirements_for(generative, openvino)


def test_two_artifacts_of_one_name_are_refused(tiny_artifact: Path) -> None:
    answer = tuneport("build", tiny_artifact, tiny_artifact)
    assert answer.code == 1
    assert_one_line(answer.err, "are both named tiny", "--name")


@pytest.mark.slow
def test_each_model_of_the_built_bento_answers_by_its_name(bento: Any) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with running(serve_command(str(bento.tag), host="127.0.0.1", port=port), url, {}):
        with httpx.Client(base_url=url, timeout=60) as client:
            index = client.post("/v2/repository/index").json()
            assert [(each["name"], each["state"]) for each in index] == [("tiny", "READY"), ("second", "READY")]
            answers = {
                path: client.post(path, json={"inputs": "bank"}).json()
                for path in ("/predict", "/models/tiny/predict", "/models/second/predict")
            }
    assert [answer["model"]["name"] for answer in answers.values()] == ["tiny", "tiny", "second"]
    first, same, other = (answer["predictions"][0] for answer in answers.values())
    assert first == same
    assert other["score"] == first["score"]
    assert other["label"] in ("one", "two", "three")
