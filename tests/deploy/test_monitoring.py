"""Alert rules and dashboard: they use metrics that the service has, and promtool accepts and tests them."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest
from kit import ROOT
from kit.kubernetes import CHART, promtool, read_yaml, render
from kit.serving import local_service

from tuneport.stages.serve.metrics.gpus import LABELS, READINGS

MONITORING = ROOT / "deploy" / "monitoring"
ALERTS = CHART / "files" / "alerts.yaml"
UNIT_TESTS = sorted(MONITORING.glob("*.test.yaml"))
DASHBOARD = CHART / "files" / "dashboard.json"
METRIC = re.compile(r"\btuneport_[a-z0-9_]+")
DERIVED = {"tuneport_queue_seconds_mean"}
"""Made by prometheus-adapter."""


def expressions() -> dict[str, str]:
    """Return every expression over metrics, by its place."""
    found = {}
    for group in read_yaml(ALERTS)["groups"]:
        found |= {rule["alert"]: rule["expr"] for rule in group["rules"]}
    for panel in json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]:
        found |= {f"{panel['title']} {target['refId']}": target["expr"] for target in panel["targets"]}
    for rule in read_yaml(MONITORING / "prometheus-adapter.yaml")["rules"]["custom"]:
        found |= {f"{rule['name']} {key}": rule[key] for key in ("seriesQuery", "metricsQuery")}
    return found


def test_the_operations_page_says_what_to_do_about_each_alert() -> None:
    page = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    alerts = [rule["alert"] for group in read_yaml(ALERTS)["groups"] for rule in group["rules"]]
    assert re.findall(r"^\| `(Tuneport\w+)` \| .+ \| .+ \|$", page, re.M) == alerts


@pytest.fixture(scope="module")
def exported(tiny_artifact: Path) -> dict[str, set[str]]:
    """Return the names of the samples that a service has which was asked something, with their labels."""
    with local_service(tiny_artifact) as service:
        assert service.post().status_code == 200
        page = httpx.get(f"{service.url}/metrics").text
    found: dict[str, set[str]] = {}
    for name, labels in re.findall(r"^(\w+)(?:\{(.*?)\})? ", page, re.M):
        found.setdefault(name, set()).update(re.findall(r'(\w+)="', labels or ""))
    return found | {f"tuneport_gpu_{reading.name}": set(LABELS) for reading in READINGS}


def test_every_metric_and_label_is_one_of_the_service(exported: dict[str, set[str]]) -> None:
    of_prometheus = {"namespace", "pod", "service", "le"}
    for place, expression in expressions().items():
        names = set(METRIC.findall(expression)) - DERIVED
        assert names or "<<.Series>>" in expression, place
        assert names <= exported.keys() | {"tuneport_cancelled_total", "tuneport_rejected_requests_total"}, place
        grouped = {label for text in re.findall(r"by \(([a-z_, ]+)\)", expression) for label in text.split(", ")}
        matched = {label for text in re.findall(r"\{([^}<]*)\}", expression) for label in re.findall(r"(\w+)=", text)}
        known = set().union(*(exported.get(name, set()) for name in names))
        known |= {"protocol", "operation", "status"}
        assert grouped | matched <= known | of_prometheus, place


def test_the_documents_list_the_metrics_that_are_used() -> None:
    text = (ROOT / "docs" / "deployment.md").read_text(encoding="utf-8")
    used = {name for expression in expressions().values() for name in METRIC.findall(expression)} - DERIVED
    families = {re.sub(r"_(bucket|sum|count)$", "", name) for name in used}
    assert {name for name in families if f"`{name}`" not in text} == set()


@pytest.mark.parametrize("arguments", [("check", "rules", str(ALERTS)), ("test", "rules", *map(str, UNIT_TESTS))])
def test_promtool_accepts_the_alerts(arguments: tuple[str, ...]) -> None:
    done = subprocess.run([promtool(), *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_has_a_unit_test_in_which_it_fires() -> None:
    groups = [group for file in UNIT_TESTS for group in read_yaml(file)["tests"]]
    tests = [each for group in groups for each in group["alert_rule_test"]]
    firing = {each["alertname"] for each in tests if each["exp_alerts"]}
    assert firing == {rule["alert"] for group in read_yaml(ALERTS)["groups"] for rule in group["rules"]}


def test_promtool_parses_the_expressions_of_the_dashboard(tmp_path: Path) -> None:
    rules = [
        {"record": f"panel:{i}", "expr": expression.replace("$__rate_interval", "5m")}
        for i, expression in enumerate(expressions().values())
        if "<<" not in expression
    ]
    file = tmp_path / "rules.json"  # which is YAML, too
    file.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    done = subprocess.run([promtool(), "check", "rules", str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(rules)} rules found" in done.stdout


def test_promtool_accepts_the_page_of_metrics(tiny_artifact: Path) -> None:
    with local_service(tiny_artifact) as service:
        service.post()
        page = httpx.get(f"{service.url}/metrics").content
    done = subprocess.run([promtool(), "check", "metrics"], input=page, capture_output=True, check=False)
    assert b"error" not in done.stderr.lower(), done.stderr


def test_the_chart_carries_both_unchanged() -> None:
    values: dict[str, Any] = {"prometheusRule": {"enabled": True}, "dashboard": {"enabled": True}}
    objects = {each["kind"]: each for each in render(**values)}
    assert objects["PrometheusRule"]["spec"] == read_yaml(ALERTS)
    assert json.loads(objects["ConfigMap"]["data"]["tuneport.json"]) == json.loads(DASHBOARD.read_text())
