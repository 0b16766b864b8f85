"""The Helm chart: what it renders is valid for Kubernetes, and says what the service needs."""

from typing import Any

import pytest
from kit import ROOT
from kit.kubernetes import CHART, IMAGE, find, read_yaml, render

from tuneport.stages.serve.lifecycle import FORCED_EXIT_S
from tuneport.stages.serve.settings import Settings

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
}
EXTENSIONS = {"ServiceMonitor", "PrometheusRule", "ScaledObject", "HTTPRoute", "GRPCRoute"}
"""Kinds of other projects, for which the package has no schemas."""


@pytest.mark.parametrize("version", ["1.27.0", "1.34.0"])
@pytest.mark.parametrize("values", [{}, FULL, {"autoscaling": {"kind": "keda"}}], ids=["defaults", "all", "keda"])
def test_the_chart_renders_valid_objects(values: dict[str, Any], version: str) -> None:
    kubernetes = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed")
    objects = render(**values)
    names = [(each["kind"], each["metadata"]["name"]) for each in objects]
    assert len(set(names)) == len(names) >= 5
    for each in objects:
        if each["kind"] not in EXTENSIONS:
            kubernetes.validate(each, version, strict=True)


def test_the_schemas_refuse_what_is_wrong() -> None:
    kubernetes = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed")
    deployment = find(render(), "Deployment")
    deployment["spec"]["template"]["spec"]["containers"][0]["readOnlyRoot"] = True
    with pytest.raises(kubernetes.ValidationError):
        kubernetes.validate(deployment, "1.34.0", strict=True)


def test_helm_has_no_complaint() -> None:
    helm = pytest.importorskip("helm_python", reason="helm-python-sdk is not installed")
    report = helm.lint(str(CHART), values=IMAGE, strict=True)
    assert [message for message in report["messages"] if message["severity"] > 1] == []
    assert report["errors"] == []


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({"image": {"repository": ""}}, "repository"),
        ({"image": {"repository": "x", "digest": "latest"}}, "digest"),
        ({"image": {"repository": "x"}}, "tag"),
        ({"replica": 3}, "replica"),
        ({"canary": {"enabled": True, "weight": 120}}, "weight"),
        ({"autoscaling": {"kind": "vpa"}}, "kind"),
        ({"user": 0}, "user"),
    ],
)
def test_wrong_values_are_refused(values: dict[str, Any], word: str) -> None:
    helm = pytest.importorskip("helm_python", reason="helm-python-sdk is not installed")
    with pytest.raises(helm.HelmError, match=word):
        render(**values)


def test_a_pod_may_do_little() -> None:
    pod = find(render(), "Deployment")["spec"]["template"]["spec"]
    [container] = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert isinstance(pod["securityContext"]["runAsUser"], int)
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert not pod["automountServiceAccountToken"]
    assert container["image"].endswith("@sha256:" + "0" * 64)
    assert [each["mountPath"] for each in container["volumeMounts"]] == ["/tmp"]


@pytest.mark.parametrize("stop", [{}, {"drainSeconds": 20, "shutdownGraceSeconds": 90}])
def test_the_pod_is_killed_after_the_graceful_stop(stop: dict[str, int]) -> None:
    pod = find(render(stop=stop), "Deployment")["spec"]["template"]["spec"]
    env = {each["name"]: each["value"] for each in pod["containers"][0]["env"]}
    stopping = float(env["TUNEPORT_DRAIN_S"]) + float(env["TUNEPORT_SHUTDOWN_GRACE_S"])
    assert pod["terminationGracePeriodSeconds"] >= stopping + FORCED_EXIT_S
    readiness = pod["containers"][0]["readinessProbe"]
    # Not ready for Kubernetes before the drain ends: the service still answers until the endpoints have changed.
    assert readiness["periodSeconds"] * readiness["failureThreshold"] < float(env["TUNEPORT_DRAIN_S"])


def test_every_variable_is_a_setting_of_the_service() -> None:
    objects = render(**{**FULL, "settings": {}})
    for each in objects:
        if each["kind"] == "Deployment":
            env = each["spec"]["template"]["spec"]["containers"][0]["env"]
            assert {item["name"] for item in env} <= {f"TUNEPORT_{name.upper()}" for name in Settings.model_fields}
            assert len(env) == 7


def test_the_ports_of_all_objects_agree() -> None:
    objects = render(**FULL)
    container = find(objects, "Deployment", "news-tuneport")["spec"]["template"]["spec"]["containers"][0]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    env = {each["name"]: each["value"] for each in container["env"]}
    assert ports == {"http": 3000, "grpc": int(env["TUNEPORT_GRPC_PORT"]), "metrics": int(env["TUNEPORT_METRICS_PORT"])}
    service = {port["name"]: port for port in find(objects, "Service", "news-tuneport")["spec"]["ports"]}
    assert {name: port["port"] for name, port in service.items()} == ports
    assert all(port["targetPort"] == name for name, port in service.items())
    assert find(objects, "ServiceMonitor")["spec"]["endpoints"][0]["port"] == "metrics"
    routes = {kind: find(objects, kind)["spec"]["rules"][0]["backendRefs"] for kind in ("HTTPRoute", "GRPCRoute")}
    assert {kind: {each["port"] for each in refs} for kind, refs in routes.items()} == {
        "HTTPRoute": {3000},
        "GRPCRoute": {3001},
    }
    policy = find(objects, "NetworkPolicy")["spec"]
    assert [[port["port"] for port in rule["ports"]] for rule in policy["ingress"]] == [["http", "grpc"], ["metrics"]]
    assert policy["egress"] == []


def test_a_canary_gets_its_weight_and_pods_of_its_own() -> None:
    objects = render(**FULL)
    [rule] = find(objects, "HTTPRoute")["spec"]["rules"]
    assert {ref["name"]: ref["weight"] for ref in rule["backendRefs"]} == {
        "news-tuneport": 80,
        "news-tuneport-canary": 20,
    }
    for name, track, image in (("news-tuneport", "stable", "@sha256"), ("news-tuneport-canary", "canary", ":2")):
        deployment = find(objects, "Deployment", name)["spec"]
        labels = deployment["template"]["metadata"]["labels"]
        assert labels["tuneport/track"] == track
        assert deployment["selector"]["matchLabels"].items() <= labels.items()
        assert find(objects, "Service", name)["spec"]["selector"].items() <= labels.items()
        assert image in deployment["template"]["spec"]["containers"][0]["image"]
    assert find(render(), "Service")["metadata"]["name"] == "news-tuneport"


def test_gpus_are_limits_and_tolerated() -> None:
    pod = find(render(gpu={"enabled": True, "count": 2}), "Deployment")["spec"]["template"]["spec"]
    limits = pod["containers"][0]["resources"]["limits"]
    assert (limits["nvidia.com/gpu"], limits["cpu"]) == (2, "2")
    assert pod["tolerations"][0]["key"] == "nvidia.com/gpu"
    assert "nvidia.com/gpu" not in str(find(render(), "Deployment"))


def test_autoscaling_leaves_the_replicas_to_the_autoscaler() -> None:
    assert find(render(), "Deployment")["spec"]["replicas"] == 2
    hpa = render(autoscaling={"kind": "hpa", "requestsInFlight": 16})
    assert "replicas" not in find(hpa, "Deployment")["spec"]
    metrics = [each["pods"]["metric"]["name"] for each in find(hpa, "HorizontalPodAutoscaler")["spec"]["metrics"]]
    adapter = read_yaml(ROOT / "deploy" / "monitoring" / "prometheus-adapter.yaml")["rules"]["custom"]
    assert sorted(metrics) == sorted(rule["name"].get("as") or rule["name"]["matches"].strip("^$") for rule in adapter)
    in_flight = {"kind": "keda", "queueInputs": None, "queueMilliseconds": None, "requestsInFlight": 16}
    [trigger] = find(render(autoscaling=in_flight), "ScaledObject")["spec"]["triggers"]
    assert (
        trigger["metadata"]["query"] == 'sum(tuneport_requests_in_flight{namespace="models",service="news-tuneport"})'
    )
    keda = render(autoscaling={"kind": "keda", "queueInputs": None})
    [trigger] = find(keda, "ScaledObject")["spec"]["triggers"]
    assert 'tuneport_queue_seconds_sum{namespace="models",service="news-tuneport"}' in trigger["metadata"]["query"]


def test_the_kserve_service_says_what_the_chart_does() -> None:
    kserve = read_yaml(ROOT / "deploy" / "kserve" / "inference-service.yaml")["spec"]["predictor"]
    pod = find(render(), "Deployment")["spec"]["template"]["spec"]
    [ours], [theirs] = pod["containers"], kserve["containers"]
    assert theirs["securityContext"] == ours["securityContext"]
    assert theirs["resources"] == ours["resources"]
    assert kserve["terminationGracePeriodSeconds"] == pod["terminationGracePeriodSeconds"]
    assert {"name": "PROTOCOL", "value": "v2"} in theirs["env"]
    assert theirs["readinessProbe"]["httpGet"]["path"] == "/v2/health/ready"
    kubernetes = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed")
    names = ("containers", "volumes", "securityContext", "automountServiceAccountToken")
    spec = {name: kserve[name] for name in names}
    kubernetes.validate(
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": spec}, "1.34.0", strict=True
    )
