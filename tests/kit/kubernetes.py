"""The Helm chart, rendered, and tools of the cluster that may not be installed."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from . import ROOT

CHART = ROOT / "deploy" / "helm" / "tuneport"
DIGEST = "sha256:" + "0" * 64
IMAGE: dict[str, Any] = {"image": {"repository": "registry.example.com/tuneport", "digest": DIGEST}}

FULL: dict[str, Any] = {
    "settings": {"VARIANT": "int8", "WORKERS": 2, "LOG_REQUESTS": False},
    "apiKeysSecret": "keys",
    "tlsSecret": "tls",
    "gpu": {"enabled": True, "runtimeClassName": "nvidia"},
    "autoscaling": {"kind": "hpa"},
    "networkPolicy": {"clients": [{"namespaceSelector": {}}], "scrapers": [{"podSelector": {}}]},
    "canary": {"enabled": True, "image": {"tag": "2"}, "weight": 20},
    "gateway": {"enabled": True, "parentRefs": [{"name": "public"}], "hostnames": ["news.example.com"]},
    "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
    "prometheusRule": {"enabled": True},
    "dashboard": {"enabled": True},
    "nodeSelector": {"kubernetes.io/arch": "amd64"},
    "imagePullSecrets": [{"name": "pull"}],
    "podAnnotations": {"a": "b"},
    "env": [{"name": "TUNEPORT_ADMIN_KEYS", "valueFrom": {"secretKeyRef": {"name": "admin", "key": "keys"}}}],
    "volumes": [{"name": "models", "persistentVolumeClaim": {"claimName": "models"}}],
    "volumeMounts": [{"name": "models", "mountPath": "/models", "readOnly": True}],
}
EXTENSIONS = {"ServiceMonitor", "PrometheusRule", "ScaledObject", "HTTPRoute", "GRPCRoute"}
"""Kinds of other projects, for which the package kubernetes-validate has no schemas."""


def render(**values: Any) -> list[dict[str, Any]]:
    """Return the objects that the chart makes of values, in the release `news` of the namespace `models`."""
    helm = pytest.importorskip("helm_python", reason="helm-python-sdk is not installed")
    with helm.Chart.load(str(CHART)) as chart:
        files = chart.render({**IMAGE, **values}, name="news", namespace="models")
    texts = [text for name, text in sorted(files.items()) if not name.endswith((".tpl", "NOTES.txt"))]
    return [each for text in texts for each in yaml.safe_load_all(text) if each]


def find(objects: list[dict[str, Any]], kind: str, name: str | None = None) -> dict[str, Any]:
    """Return the one object of a kind (and a name)."""
    [found] = [each for each in objects if each["kind"] == kind and name in (None, each["metadata"]["name"])]
    return found


def promtool() -> str:
    """Return the path of promtool; skips the test without."""
    path = shutil.which("promtool")
    if path is None:
        pytest.skip("promtool is not installed (Debian: apt-get install prometheus)")
    return path


def read_yaml(path: Path) -> Any:
    """Read a YAML file of one document."""
    return yaml.safe_load(path.read_text(encoding="utf-8"))
