"""Objects of the Gateway API, of Prometheus' operator and of KEDA: valid by the schemas of packages on npm."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from kit.kubernetes import EXTENSIONS, FULL, render

PACKAGES = ("gateway-api@2.0.0", "keda@2.0.0", "prometheus-operator@6.0.0")
SCOPE = "@kubernetes-models"
VALIDATE = """
import fs from "node:fs";
const packages = {
  "gateway.networking.k8s.io": "gateway-api", "keda.sh": "keda", "monitoring.coreos.com": "prometheus-operator",
};
for (const object of JSON.parse(fs.readFileSync(0, "utf8"))) {
  const name = packages[object.apiVersion.split("/")[0]];
  const models = await import(`@kubernetes-models/${name}/${object.apiVersion}`);
  new models[object.kind](object).validate();
  console.log(object.kind);
}
"""

pytestmark = [
    pytest.mark.network,
    pytest.mark.skipif(shutil.which("npm") is None, reason="npm is not installed"),
]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the packages."""
    folder = tmp_path_factory.mktemp("models")
    names = [f"{SCOPE}/{package}" for package in PACKAGES]
    command = ["npm", "install", "--silent", "--no-audit", "--no-fund", "--ignore-scripts", *names]
    subprocess.run(command, cwd=folder, check=True, timeout=300)
    return folder


def validate(objects: list[dict[str, Any]], models: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["node", "--input-type=module", "--eval", VALIDATE],
        cwd=models,
        input=json.dumps(objects),
        capture_output=True,
        text=True,
        check=False,
    )


def test_objects_of_other_projects_are_valid(models: Path) -> None:
    rendered = [*render(**FULL), *render(autoscaling={"kind": "keda", "requestsInFlight": 16})]
    objects = [each for each in rendered if each["kind"] in EXTENSIONS]
    assert {each["kind"] for each in objects} == EXTENSIONS
    done = validate(objects, models)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [each["kind"] for each in objects]


def test_their_schemas_refuse_what_is_wrong(models: Path) -> None:
    objects = [each for each in render(**FULL) if each["kind"] in EXTENSIONS]
    assert objects
    for each in objects:
        each["spec"] = "wrong"
        done = validate([each], models)
        assert done.returncode != 0
        assert "ValidationError: data/spec must be object" in done.stderr
