"""A model repository with versions of the tiny model, and requests that load and unload them."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tuneport.schema.loading import load_manifest

from .artifacts import alter_golden, change_byte, reseal

ADMIN = {"x-api-key": "admin"}
TEMPERATURES = {"v1": 1.0001, "damaged": 1.0002, "wrong": 1.0003, "relabelled": 1.0004}
"""What makes artifacts other versions, and leaves their logits and their golden cases as they are."""


@dataclass(frozen=True)
class Repository:
    """A model repository, and the versions of the artifacts in its folders by their names."""

    folder: Path
    versions: dict[str, str]


def make_repository(root: Path, artifact: Path) -> Repository:
    """Copy an artifact as `v0`; make a version that differs in its temperature alone, and three that may not serve."""
    versions = {}
    for name in ("v0", *TEMPERATURES):
        folder = root / name if name == "relabelled" else root / "tiny" / name
        shutil.copytree(artifact, folder)
        if name == "wrong":
            alter_golden(folder, 1.0)
        if name in TEMPERATURES:
            processing = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["processing"]
            changes: dict[str, Any] = {"processing": {**processing, "temperature": TEMPERATURES[name]}}
            reseal(folder, {**changes, "labels": ["x", "y", "z"]} if name == "relabelled" else changes)
        versions[name] = load_manifest(folder).version
    reseal(shutil.copytree(artifact, root / "other"), {"name": "other"})
    change_byte(next((root / "tiny" / "damaged" / "onnx" / "fp32").glob("*.onnx")))
    return Repository(root, versions)


def change_models(
    url: str, action: str, headers: dict[str, str] = ADMIN, name: str = "tiny", **parameters: Any
) -> httpx.Response:
    """Load or unload a version."""
    path = f"/v2/repository/models/{name}/{action}"
    return httpx.post(f"{url}{path}", json={"parameters": parameters}, headers=headers, timeout=60)


def version_of(response: httpx.Response) -> str:
    """Return the version that answered."""
    assert response.status_code == 200, response.text
    return str(response.json()["model"]["version"])
