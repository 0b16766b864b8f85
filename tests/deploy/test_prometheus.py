"""A real Prometheus scrapes the service, with its API key, and evaluates the alert rules on what it got."""

import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from kit.kubernetes import CHART, read_yaml
from kit.servers import KEY
from kit.serving import LocalService, local_service

from tuneport.stages.serve.process import free_port

ALERTS = CHART / "files" / "alerts.yaml"
ALLOWED_S = 60.0

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        shutil.which("prometheus") is None, reason="Prometheus is not installed (apt-get install prometheus)"
    ),
]


@pytest.fixture
def service(tiny_artifact: Path) -> Iterator[LocalService]:
    with local_service(tiny_artifact, api_keys=KEY, max_concurrent_requests=1) as opened:
        yield opened


@pytest.fixture
def prometheus(service: LocalService, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """A function that asks a Prometheus which scrapes the service each second."""
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(ALERTS)],
        "scrape_configs": [
            {
                "job_name": "tuneport",
                "authorization": {"credentials": KEY},
                "static_configs": [{"targets": [f"127.0.0.1:{service.port}"]}],
            }
        ],
    }
    (tmp_path / "prometheus.yml").write_text(json.dumps(config))  # which is YAML, too
    port = free_port()
    where = [f"--web.listen-address=127.0.0.1:{port}", f"--storage.tsdb.path={tmp_path / 'data'}"]
    with (tmp_path / "log").open("wb") as log:
        command = ["prometheus", f"--config.file={tmp_path / 'prometheus.yml'}", *where]
        process = subprocess.Popen(command, stdout=log, stderr=log)

    def ask(path: str, **parameters: str) -> Any:
        assert process.poll() is None, (tmp_path / "log").read_text()
        return httpx.get(f"http://127.0.0.1:{port}/api/v1/{path}", params=parameters, timeout=10).json()["data"]

    try:
        yield ask
    finally:
        process.terminate()
        process.wait(30)


def wait_for(condition: Callable[[], Any]) -> Any:
    """Return the first true value of a condition."""
    limit = time.monotonic() + ALLOWED_S
    while True:
        try:
            if found := condition():
                return found
        except httpx.TransportError:  # it does not listen yet
            pass
        assert time.monotonic() < limit
        time.sleep(0.2)


def test_it_reads_every_metric_and_evaluates_every_alert(service: LocalService, prometheus: Callable[..., Any]) -> None:
    for _ in range(3):
        assert service.post(headers={"x-api-key": KEY}).status_code == 200
    assert service.post(7, headers={"x-api-key": KEY}).status_code == 422

    def value(expression: str) -> float | None:
        found = prometheus("query", query=expression)["result"]
        return float(found[0]["value"][1]) if found else None

    assert wait_for(lambda: value('tuneport_requests_total{operation="predict",status="200"}')) == 3
    assert value('tuneport_requests_total{operation="predict",status="422"}') == 1
    assert value("sum(tuneport_request_seconds_count)") == 4
    assert value('up{job="tuneport"}') == 1
    names = set(prometheus("label/__name__/values"))
    page = httpx.get(f"{service.url}/metrics", headers={"x-api-key": KEY}).text
    exposed = {line.partition("{")[0].partition(" ")[0] for line in page.splitlines() if not line.startswith("#")}
    assert exposed <= names

    def rules() -> list[dict[str, Any]]:
        found = [rule for group in prometheus("rules")["groups"] for rule in group["rules"]]
        return found if found and all(rule["health"] != "unknown" for rule in found) else []

    evaluated = {rule["name"]: rule["health"] for rule in wait_for(rules)}
    assert evaluated == {rule["alert"]: "ok" for group in read_yaml(ALERTS)["groups"] for rule in group["rules"]}
    [target] = prometheus("targets")["activeTargets"]
    assert (target["health"], target["lastError"]) == ("up", "")
