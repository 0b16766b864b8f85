"""`tuneport models` against a running service."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kit.command import assert_one_line, tuneport
from kit.serving import LocalService, local_service
from kit.versions import Repository, make_repository


@pytest.fixture(scope="module")
def repository(tiny_artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> Repository:
    return make_repository(tmp_path_factory.mktemp("repository"), tiny_artifact)


@pytest.fixture(scope="module")
def service(tiny_artifact: Path, repository: Repository) -> Iterator[LocalService]:
    with local_service(tiny_artifact, admin_keys="admin,other", model_repository=repository.folder) as service:
        yield service


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNEPORT_ADMIN_KEYS", "admin, other")


def change(service: LocalService, *arguments: str) -> Any:
    answer = tuneport("models", service.url, *arguments, "--quiet", "--json")
    assert (answer.code, answer.err) == (0, "")
    return json.loads(answer.out)


def states(service: LocalService) -> dict[str, tuple[str, str]]:
    return {each["version"]: (each["state"], each["reason"]) for each in change(service, "list")["models"]}


def test_a_version_is_tried_promoted_and_taken_back(service: LocalService, repository: Repository) -> None:
    v0, v1 = repository.versions["v0"], repository.versions["v1"]
    identity = {"name": "tiny", "version": v1, "variant": "fp32"}
    assert states(service)[v1] == ("UNAVAILABLE", "not loaded")
    assert change(service, "shadow", "tiny", "0.5", "--version", v1) == identity
    assert next(iter(service.models)).shadow_share == 0.5
    assert change(service, "weight", "tiny", "0.25", "--version", v1) == identity
    assert states(service)[v1] == ("READY", "answers 0.25 of the requests")
    assert change(service, "unload", "tiny", "--version", v1) == {"name": "tiny", "version": v1}
    assert change(service, "load", "tiny", "--version", v1) == identity
    assert states(service)[v1] == ("READY", "")
    answer = tuneport("models", service.url, "load", "tiny", "--version", v0, "--quiet")
    assert answer.out == f"tiny {v0} answers all requests\n"
    assert f"tiny  {v0}  READY\n" in tuneport("models", service.url, "list").out


def test_other_labels_are_loaded_where_they_are_accepted(service: LocalService, repository: Repository) -> None:
    version = repository.versions["relabelled"]
    answer = tuneport("models", service.url, "load", "tiny", "--version", version, "--quiet")
    assert answer.code == 1
    assert_one_line(answer.err, "other labels", "accept_changes")
    assert change(service, "load", "tiny", "--version", version, "--accept-changes")["version"] == version
    assert service.post().json()["predictions"][0]["label"] in ("x", "y", "z")
    change(service, "load", "tiny", "--version", repository.versions["v0"], "--accept-changes")


def test_a_wrong_key_and_a_version_that_fails_are_one_line(
    service: LocalService, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = tuneport("models", service.url, "load", "tiny", "--version", repository.versions["wrong"], "--quiet")
    assert answer.code == 1
    assert_one_line(answer.err, "golden")
    assert tuneport("models", service.url, "load", "tiny", "--api-key", "wrong", "--quiet").code == 1
    monkeypatch.delenv("TUNEPORT_ADMIN_KEYS")
    assert_one_line(tuneport("models", service.url, "unload", "tiny", "--quiet").err, "there is no API key")


def test_a_change_that_is_not_answered_in_time_may_still_take_place() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        answer = tuneport("models", url, "load", "tiny", "--timeout", "0.2", "--quiet")
    assert answer.code == 1
    assert_one_line(answer.err, "no answer within 0.2 s", "may still take place", "--timeout")


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("list", "tiny"), "takes no name"),
        (("load",), "needs the name"),
        (("weight", "tiny"), "needs a share"),
        (("weight", "tiny", "1.5"), "less than or equal to 1"),
        (("unload", "tiny", "0.5"), "takes no share"),
        (("promote", "tiny"), "promote"),
    ],
)
def test_wrong_usage(arguments: tuple[str, ...], problem: str) -> None:
    answer = tuneport("models", "http://127.0.0.1:1", *arguments)
    assert answer.code == 2
    assert problem in answer.err
