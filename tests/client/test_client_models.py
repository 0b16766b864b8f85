"""The models of a running service, listed, loaded and unloaded through both clients."""

from pathlib import Path

import pytest
from kit.clients import Call
from kit.serving import local_service
from kit.versions import make_repository

from tuneport import errors
from tuneport.client import ModelName, ModelVersion


def test_models_are_listed_loaded_and_unloaded(call: Call, tiny_artifact: Path, tmp_path: Path) -> None:
    repository = make_repository(tmp_path / "repository", tiny_artifact)
    v0, v1 = repository.versions["v0"], repository.versions["v1"]

    def state() -> str:
        found = {each.version: each for each in call(local.url, "list_models", api_key="admin")}
        return f"{found[v1].state} {found[v1].reason}"

    with local_service(tiny_artifact, admin_keys="admin", model_repository=repository.folder) as local:
        assert call(local.url, "list_models")[0] == ModelVersion("tiny", v0, "READY", "")
        assert state() == "UNAVAILABLE not loaded"
        assert call(local.url, "load_model", "tiny", v1, api_key="admin") == ModelName("tiny", v1, "fp32")
        assert state() == "READY "
        assert local.post().json()["model"]["version"] == v1
        call(local.url, "load_model", "other", api_key="admin")
        call(local.url, "unload_model", "other", api_key="admin")
        with pytest.raises(errors.ModelNotLoaded, match="answers requests"):
            call(local.url, "unload_model", "tiny", api_key="admin")
        with pytest.raises(errors.Unauthenticated):
            call(local.url, "load_model", "tiny")
    with pytest.raises(errors.InputError, match="over HTTP"):
        call("grpc://127.0.0.1:1", "list_models", model="tiny")
