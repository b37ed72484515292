"""The chart makes what the overlays and components do, and what is in its values besides."""

import json
import re
import subprocess
from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway import __version__
from loadtest.tools.builds import BUILDS, CHART, Object, built, notes, objects, template

HELMS = {"app.kubernetes.io/instance", "app.kubernetes.io/managed-by", "helm.sh/chart", "helm.sh/resource-policy"}
"""Labels and annotations that a release has and a kustomization has not."""


def same(one: Object) -> Object:
    """An object as both would make it: without what Helm adds, and without order where there is none."""
    labels = one["metadata"].pop("labels", {})
    one["metadata"]["labels"] = {key: labels[key] for key in {"app.kubernetes.io/name"} & labels.keys()}
    one["metadata"]["name"] = one["metadata"]["name"].removesuffix(suffix(one))
    one["metadata"]["namespace"] = "conch"
    made: Object = normal(one)
    return made


def suffix(one: Object) -> str:
    """What the chart puts behind the name of a Job."""
    name = str(one["metadata"]["name"])
    return name[-9:] if one["kind"] == "Job" and name.count("-") == 3 else ""


def normal(value: Any) -> Any:
    if isinstance(value, dict):
        ours = {key: normal(part) for key, part in value.items() if key not in HELMS}
        return {key: part for key, part in ours.items() if part or key not in {"matchLabels", "annotations", "labels"}}
    if isinstance(value, list):
        parts = [normal(part) for part in value]
        if parts and all(isinstance(part, dict) and "name" in part for part in parts):
            return sorted(parts, key=lambda part: str(part["name"]))
        return parts
    return value


def named(made: list[Object]) -> dict[tuple[str, str], Object]:
    given = [same(one) for one in made if one["kind"] not in {"Namespace", "Secret"}]
    found = {(one["kind"], one["metadata"]["name"]): one for one in given}
    assert len(found) == len(given)
    return found


def release(**values: Any) -> list[Object]:
    return objects(template(values))


def one(made: list[Object], kind: str, name: str = "") -> Any:
    (found,) = (each for each in made if each["kind"] == kind and each["metadata"]["name"].startswith(name))
    return found


@pytest.mark.parametrize("name", [name for name, build in BUILDS.items() if build.values is not None])
def test_release_equals_what_kustomize_builds(name: str) -> None:
    build = BUILDS[name]
    assert build.values is not None
    ours = named(objects(template(build.values)))
    theirs = named(objects(built(name)))
    assert ours.keys() == theirs.keys()
    for key, made in ours.items():
        assert made == theirs[key], key


def test_versions_are_the_projects() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert (chart["version"], chart["appVersion"]) == (__version__, __version__)


def paths(value: Any, at: str = "") -> Iterator[str]:
    """The names of values that the templates read as a whole."""
    if isinstance(value, dict) and value:
        for key, part in value.items():
            yield from paths(part, f"{at}.{key}")
    else:
        yield at


def test_schema_knows_every_value_and_templates_read_it() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    schema = json.loads((CHART / "values.schema.json").read_text())
    templates = "".join(file.read_text() for file in (CHART / "templates").iterdir())
    for path in paths(values):
        at = schema
        for key in path.split(".")[1:]:
            properties = at.get("properties") or schema["definitions"][at["$ref"].rpartition("/")[2]]["properties"]
            at = properties[key]
        assert path.rpartition(".")[2] in templates, path


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"engine": "onnx"}, "/engine"),
        ({"models": {"version": "V1"}}, "/models/version"),
        ({"gateway": {"httpRoute": {"enabled": True}}}, "/gateway/httpRoute/parentRefs"),
        ({"replicas": 2}, "'replicas' not allowed"),
    ],
)
def test_wrong_value_is_refused_by_name(values: Object, said: str) -> None:
    with pytest.raises(subprocess.CalledProcessError) as raised:
        template(values)
    assert said in raised.value.stderr


def pod(made: list[Object], name: str, kind: str = "Deployment") -> Any:
    return one(made, kind, name)["spec"]["template"]["spec"]


def test_keys_are_made_as_the_gateway_and_prometheus_read_them() -> None:
    made = release()
    data = {key: b64decode(value).decode() for key, value in one(made, "Secret")["data"].items()}
    (metrics, client) = data["keys"].splitlines()
    assert data["metrics"] == metrics
    assert len(client) >= 32
    assert metrics != client
    assert one(release(), "Secret")["data"] != one(made, "Secret")["data"]
    (volume,) = (each["secret"] for each in pod(made, "conch-gateway")["volumes"] if "secret" in each)
    assert volume["secretName"] == one(made, "Secret")["metadata"]["name"]


def test_keys_of_ones_own_are_used() -> None:
    made = release(keys={"existingSecret": "mine"}, monitoring={"enabled": True})
    assert not [each for each in made if each["kind"] == "Secret"]
    (volume,) = (each["secret"] for each in pod(made, "conch-gateway")["volumes"] if "secret" in each)
    assert volume["secretName"] == "mine"
    (endpoint,) = one(made, "ServiceMonitor")["spec"]["endpoints"]
    assert endpoint["authorization"]["credentials"] == {"name": "mine", "key": "metrics"}


@pytest.mark.parametrize("engine", ["torch", "tensorrt", "openvino"])
def test_images_are_of_ones_own_registry(engine: str) -> None:
    made = release(engine=engine, image={"registry": "example.com/team/", "tag": "7", "pullSecrets": ["pull"]})
    pods = [each["spec"]["template"]["spec"] for each in made if each["kind"] in {"Deployment", "Job"}]
    images = {each["image"] for each in pods for each in [*each["containers"], *each.get("initContainers", [])]}
    ours = {image for image in images if not image.startswith("nvcr.io/")}
    assert all(image.startswith("example.com/team/conch-") and image.endswith(":7") for image in ours)
    assert bool(images - ours) == (engine == "tensorrt")
    assert all(each["imagePullSecrets"] == [{"name": "pull"}] for each in pods)


def test_next_version_is_exported_beside_the_served_one_and_then_served() -> None:
    first, beside, then = release(), release(models={"next": "v2"}), release(models={"version": "v2"})
    jobs = [{each["metadata"]["name"]: each["spec"] for each in made if each["kind"] == "Job"}
            for made in (first, beside, then)]  # fmt: skip
    assert {**jobs[0], **jobs[2]} == jobs[1]
    assert len(jobs[1]) == 2
    assert one(beside, "Deployment", "conch-triton") == one(first, "Deployment", "conch-triton")
    assert one(then, "Service", "conch-triton")["spec"]["selector"]["models"] == "v2"


def test_changed_job_has_another_name() -> None:
    """A Job cannot be changed."""
    names = {one(made, "Job")["metadata"]["name"] for made in (release(), release(image={"tag": "0.2.0"}))}
    assert len(names) == 2


def test_manifest_arrives_as_it_is() -> None:
    manifest = '[a]\ntask = "text-embedding"\n\n[b] # {{ no template }}\n'
    made = release(models={"manifest": manifest})
    config = one(made, "ConfigMap")
    assert config["data"] == {"models.toml": manifest}
    (volume,) = (each for each in pod(made, "conch-export", "Job")["volumes"] if "configMap" in each)
    assert volume["configMap"]["name"] == config["metadata"]["name"]


def test_volumes_are_as_asked_for_and_stay() -> None:
    storage = {"className": "nfs", "accessModes": ["ReadWriteMany"], "plans": {"existingClaim": "mine"}}
    made = release(storage=storage)
    claim = one(made, "PersistentVolumeClaim")
    assert claim["spec"]["storageClassName"] == "nfs"
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    assert claim["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    claims = {each["persistentVolumeClaim"]["claimName"] for each in pod(made, "conch-triton")["volumes"]
              if "persistentVolumeClaim" in each}  # fmt: skip
    assert claims == {claim["metadata"]["name"], "mine"}


def test_partition_of_a_gpu_is_requested_alone() -> None:
    triton = pod(release(gpu={"resource": "nvidia.com/mig-1g.10gb", "count": 2}), "conch-triton")
    for container in (*triton["containers"], *triton["initContainers"]):
        assert container["resources"]["limits"] == {"cpu": "16", "memory": "12Gi", "nvidia.com/mig-1g.10gb": "2"}


def test_pods_follow_triton_to_its_node() -> None:
    made = release(triton={"tolerations": [{"key": "sku", "operator": "Exists"}], "nodeSelector": {"gpu": "l4"}})
    for kind, name in (("Deployment", "conch-triton"), ("Deployment", "conch-gateway"), ("Job", "conch-export")):
        assert [each["key"] for each in pod(made, name, kind)["tolerations"]] == ["nvidia.com/gpu", "sku"]
    assert "nodeSelector" not in pod(made, "conch-gateway")
    apart = release(triton={"tolerations": [{"key": "sku", "operator": "Exists"}]}, highAvailability=True)
    assert [each["key"] for each in pod(apart, "conch-gateway")["tolerations"]] == ["nvidia.com/gpu"]


def test_policies_can_be_left_out() -> None:
    assert not [each for each in release(networkPolicy={"enabled": False}) if each["kind"] == "NetworkPolicy"]


def test_two_releases_do_not_see_each_others_pods() -> None:
    for each in objects(template({"monitoring": {"enabled": True}, "highAvailability": True}, "second")):
        assert each["metadata"]["name"].startswith("second-conch")
        for selector in selectors(each.get("spec", {})):
            assert selector["app.kubernetes.io/instance"] == "second"


def selectors(value: Any) -> Iterator[Any]:
    """All that chooses pods, except those of other namespaces."""
    if isinstance(value, dict):
        for key, part in value.items():
            if key in {"selector", "podSelector", "labelSelector"} and "namespaceSelector" not in value:
                yield part.get("matchLabels", part)
            else:
                yield from selectors(part)
    elif isinstance(value, list):
        for part in value:
            yield from selectors(part)


def test_autoscaler_asks_for_this_namespaces_metrics() -> None:
    values = {"autoscaling": {"kind": "keda", "maxReplicas": 3, "prometheus": "http://here:9090"}}
    (scaler,) = (each for each in objects(template(values, namespace="other")) if each["kind"] == "ScaledObject")
    assert scaler["spec"]["maxReplicaCount"] == 3
    for trigger in scaler["spec"]["triggers"]:
        assert trigger["metadata"]["serverAddress"] == "http://here:9090"
        assert 'namespace="other"' in trigger["metadata"]["query"]
        assert 'conch"' not in trigger["metadata"]["query"]


def test_gateway_is_reached_from_outside_by_its_port() -> None:
    made = release(
        gateway={
            "service": {"port": 80},
            "ingress": {"enabled": True, "className": "nginx", "host": "a.example.com", "tlsSecret": "tls"},
            "httpRoute": {"enabled": True, "parentRefs": [{"name": "edge"}], "hostnames": ["a.example.com"]},
        }
    )
    (port,) = one(made, "Service", "conch-gateway")["spec"]["ports"]
    assert (port["port"], port["targetPort"]) == (80, "http")
    ingress = one(made, "Ingress")["spec"]
    assert ingress["tls"] == [{"hosts": ["a.example.com"], "secretName": "tls"}]
    assert ingress["rules"][0]["http"]["paths"][0]["backend"]["service"]["port"] == {"name": port["name"]}
    route = one(made, "HTTPRoute")["spec"]
    assert route["parentRefs"] == [{"name": "edge"}]
    assert route["rules"] == [{"backendRefs": [{"name": "conch-gateway", "port": 80}]}]


def test_settings_of_the_gateway_come_last_so_that_they_win() -> None:
    setting = {"name": "GATEWAY_REQUESTS_PER_MINUTE", "value": "600"}
    (container,) = pod(release(gateway={"extraEnv": [setting]}), "conch-gateway")["containers"]
    assert container["env"][-1] == setting


def test_notes_name_what_was_installed_and_ask_as_the_page_does() -> None:
    told = notes("second", "other").partition("NOTES:")[2]
    made = {(each["kind"].lower(), each["metadata"]["name"]) for each in objects(template({}, "second", "other"))}
    named = set(re.findall(r"(deployment|service|secret)[/ ](second[\w-]+)", told))
    assert {kind for kind, _ in named} == {"deployment", "service", "secret"}
    assert named <= made
    assert set(re.findall(r"kubectl -n (\S+)", told)) == {"other"}
    page = Path("docs/kubernetes.md").read_text()
    assert told.strip().splitlines()[-1].strip() in page
    assert told.partition("curl ")[2].partition("Bearer")[0] in page
