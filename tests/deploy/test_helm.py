"""The Helm chart: what it renders is valid for Kubernetes, and says what the service needs."""

from collections.abc import Iterator
from typing import Any

import pytest
from kit import ROOT
from kit.kubernetes import CHART, EXTENSIONS, FULL, IMAGE, find, read_yaml, render

from tuneport.stages.serve.lifecycle import FORCED_EXIT_S
from tuneport.stages.serve.settings import Settings

PROBES = ("startupProbe", "readinessProbe", "livenessProbe")
OPEN = ("affinity", "annotations", "global", "labels", "nodeSelector", "podAnnotations", "resources", "settings")
"""Values that are passed on as they are, or checked by their names."""


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
        ({"networkPolicy": {"client": []}}, "client"),
        ({"gateway": {"hostname": "news.example.com"}}, "hostname"),
        ({"canary": {"image": {"repositry": "x"}}}, "repositry"),
        ({"canary": {"image": {"pullPolicy": "Sometimes"}}}, "pullPolicy"),
        ({"settings": {"GRPC_PORT": 9000}}, "GRPC_PORT"),
        ({"settings": {"ADMIN_KEYS": "secret"}}, "ADMIN_KEYS"),
        ({"autoscaling": {"kind": "hpa", "queueInputs": None, "queueMilliseconds": None}}, "needs a target"),
    ],
)
def test_wrong_values_are_refused(values: dict[str, Any], word: str) -> None:
    helm = pytest.importorskip("helm_python", reason="helm-python-sdk is not installed")
    with pytest.raises(helm.HelmError, match=word):
        render(**values)


def test_every_group_of_values_refuses_unknown_names() -> None:
    def walk(name: str, schema: Any) -> Iterator[str]:
        if schema.get("type") == "object" and name not in OPEN and schema.get("additionalProperties") is not False:
            yield name
        for each, inner in schema.get("properties", {}).items():
            yield from walk(each, inner)

    schema = read_yaml(CHART / "values.schema.json")  # JSON is YAML, too
    assert [*walk("values", schema)] == []
    assert read_yaml(CHART / "values.yaml").keys() <= schema["properties"].keys()


def test_large_numbers_are_written_in_full() -> None:
    """Helm reads numbers as floating-point ones, which Go writes with an exponent from a million on."""
    values = {"MAX_BODY_BYTES": 33554432, "MAX_QUEUE_MS": 12.5, "WORKERS": 2, "LOG_INPUTS": False, "VARIANT": "int8"}
    pod = find(render(settings=values, user=1000650000), "Deployment")["spec"]["template"]["spec"]
    env = {each["name"].removeprefix("TUNEPORT_"): each["value"] for each in pod["containers"][0]["env"]}
    assert {name: env[name] for name in values} == {
        "MAX_BODY_BYTES": "33554432",
        "MAX_QUEUE_MS": "12.5",
        "WORKERS": "2",
        "LOG_INPUTS": "false",
        "VARIANT": "int8",
    }
    assert {pod["securityContext"][name] for name in ("runAsUser", "runAsGroup", "fsGroup")} == {1000650000}


@pytest.mark.parametrize(("secret", "http", "grpc"), [("", "http", "kubernetes.io/h2c"), ("tls", "https", "https")])
def test_the_ports_say_whether_they_speak_tls(secret: str, http: str, grpc: str) -> None:
    objects = render(tlsSecret=secret)
    ports = {each["name"]: each.get("appProtocol") for each in find(objects, "Service")["spec"]["ports"]}
    assert ports == {"http": http, "grpc": grpc, "metrics": None}
    [container] = find(objects, "Deployment")["spec"]["template"]["spec"]["containers"]
    assert {probe: container[probe]["httpGet"]["scheme"] for probe in PROBES} == dict.fromkeys(PROBES, http.upper())


def test_further_variables_and_volumes_are_passed_on() -> None:
    pod = find(render(**FULL), "Deployment", "news-tuneport")["spec"]["template"]["spec"]
    assert FULL["env"][0] in pod["containers"][0]["env"]
    assert FULL["volumes"][0] in pod["volumes"]
    assert FULL["volumeMounts"][0] in pod["containers"][0]["volumeMounts"]


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
    objects = render(**{**FULL, "settings": {}, "env": []})
    for each in objects:
        if each["kind"] == "Deployment":
            env = each["spec"]["template"]["spec"]["containers"][0]["env"]
            assert {item["name"] for item in env} <= {f"TUNEPORT_{name.upper()}" for name in Settings.model_fields}
            assert len(env) == 7


def test_the_ports_of_all_objects_agree() -> None:
    objects = render(**FULL)
    container = find(objects, "Deployment", "news-tuneport")["spec"]["template"]["spec"]["containers"][0]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    env = {each["name"]: each.get("value") for each in container["env"]}
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


def test_a_canary_may_come_from_another_repository() -> None:
    image = {"repository": "registry.example.com/next", "tag": "2", "pullPolicy": "Always"}
    objects = render(canary={"enabled": True, "image": image})
    pods = {
        name: find(objects, "Deployment", name)["spec"]["template"]["spec"]["containers"][0]
        for name in ("news-tuneport", "news-tuneport-canary")
    }
    assert {name: (pod["image"].partition("@")[0], pod["imagePullPolicy"]) for name, pod in pods.items()} == {
        "news-tuneport": (IMAGE["image"]["repository"], "IfNotPresent"),
        "news-tuneport-canary": ("registry.example.com/next:2", "Always"),
    }


@pytest.mark.parametrize(
    ("values", "name", "label"),
    [
        ({}, "news-tuneport", "tuneport"),
        ({"nameOverride": "topics"}, "news-topics", "topics"),
        ({"nameOverride": "new"}, "news", "new"),
        ({"fullnameOverride": "topics"}, "topics", "tuneport"),
        ({"nameOverride": "a", "fullnameOverride": "topics"}, "topics", "a"),
    ],
)
def test_the_objects_take_the_name_that_is_given(values: dict[str, str], name: str, label: str) -> None:
    objects = render(**values)
    assert {each["metadata"]["name"] for each in objects} == {name}
    deployment = find(objects, "Deployment")["spec"]
    assert deployment["selector"]["matchLabels"]["app.kubernetes.io/name"] == label
    assert find(objects, "Service")["spec"]["selector"].items() <= deployment["template"]["metadata"]["labels"].items()


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
    down = {"kind": "hpa", "scaleDownSeconds": 77}
    ours = find(render(autoscaling=down), "HorizontalPodAutoscaler")["spec"]["behavior"]
    theirs = find(render(autoscaling={**down, "kind": "keda"}), "ScaledObject")["spec"]["advanced"]
    assert theirs == {"horizontalPodAutoscalerConfig": {"behavior": ours}}
    assert ours["scaleDown"]["stabilizationWindowSeconds"] == 77


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
