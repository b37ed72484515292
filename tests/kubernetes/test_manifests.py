"""What kubernetes/ says of the rest of the project, and of itself twice. `make manifests` builds and validates it."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from embedded.triton import Ports
from gateway import __version__
from gateway.__main__ import CLOSE_S
from gateway.server.server import GIVE_UP_S
from gateway.settings import Settings

ROOT = Path("kubernetes")
PAGE = Path("docs/kubernetes.md").read_text()
FILES = sorted(ROOT.rglob("*.yaml"))
KUSTOMIZATIONS = [file for file in FILES if file.name == "kustomization.yaml"]
RELEASE = Path("images/triton-release").read_text().strip().partition(":")[2]


def read(path: str | Path) -> list[Any]:
    return list(yaml.safe_load_all((ROOT / path).read_text()))


def find(path: str, kind: str, name: str) -> Any:
    (one,) = (each for each in read(path) if (each["kind"], each["metadata"]["name"]) == (kind, name))
    return one


def within(value: Any, *keys: str) -> Iterator[Any]:
    """All that is under any of these keys, however deep."""
    for key, part in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        if key in keys:
            yield part
        yield from within(part, *keys)


GATEWAY = find("base/gateway.yaml", "Deployment", "conch-gateway")["spec"]["template"]["spec"]
TRITON = find("base/triton.yaml", "Deployment", "conch-triton")["spec"]["template"]["spec"]
EXPORT = find("base/models.yaml", "Job", "conch-export-v0")["spec"]["template"]["spec"]
RUNTIME = find("kserve/serving.yaml", "ServingRuntime", "conch-triton")["spec"]
INFERENCE_SERVICE = find("kserve/serving.yaml", "InferenceService", "conch")["spec"]["predictor"]
VERSION = read("base/kustomization.yaml")[0]["labels"][0]["pairs"]["models"]
POLICIES = [one for file in FILES for one in read(file.relative_to(ROOT)) if one.get("kind") == "NetworkPolicy"]
CONTAINERS = [
    (name, container)
    for name, pod in (("gateway", GATEWAY), ("triton", TRITON), ("export", EXPORT), ("kserve", RUNTIME))
    for container in [*pod["containers"], *pod.get("initContainers", [])]
]


def environment(container: Any, **known: str) -> dict[str, str]:
    """As the kubelet makes it: $(NAME) is what stands before it in the list."""
    made: dict[str, str] = {}
    for one in container["env"]:
        value = one["value"] if "value" in one else known[one["name"]]
        made[one["name"]] = re.sub(r"\$\((\w+)\)", lambda match: made[match[1]], value)
    return made


def options(arguments: list[str]) -> dict[str, str]:
    return dict(argument.removeprefix("--").split("=", 1) for argument in arguments if "=" in argument)


def protocols(arguments: list[str], option: str) -> set[str]:
    return set(options(arguments)[option].partition(":")[0].split(","))


@pytest.mark.parametrize("file", KUSTOMIZATIONS, ids=str)
def test_images_are_of_this_version_and_of_one_release_of_triton(file: Path) -> None:
    for image in read(file.relative_to(ROOT))[0].get("images", []):
        ours = "conch-" in image.get("newName", image["name"])
        assert image["newTag"] == (__version__ if ours else RELEASE)


def test_every_image_has_its_tag_in_a_kustomization() -> None:
    tagged = {image["name"] for file in KUSTOMIZATIONS for image in read(file.relative_to(ROOT))[0].get("images", [])}
    used = {image for file in FILES for one in read(file.relative_to(ROOT)) for image in within(one, "image")}
    assert {image for image in used if isinstance(image, str)} == tagged


def test_gateway_starts_with_its_environment(tmp_path: Path) -> None:
    (container,) = GATEWAY["containers"]
    (mount,) = (mount for mount in container["volumeMounts"] if mount["name"] == "keys")
    made = environment(container, MODELS=VERSION, NAMESPACE="conch")
    assert Path(made["GATEWAY_API_KEYS_FILE"]).parent == Path(mount["mountPath"])
    (tmp_path / "keys").write_text("key\n")
    settings = Settings.from_env(made | {"GATEWAY_API_KEYS_FILE": str(tmp_path / "keys")})
    assert settings.triton_urls == (f"dns:///conch-triton-{VERSION}.conch.svc.cluster.local.:{Ports().grpc}",)
    assert settings.model_repository == Path("/models") / VERSION
    assert container["ports"] == [{"name": "http", "containerPort": settings.port}]


def test_export_reads_the_token_of_the_hub_from_the_secret_if_there_is_one() -> None:
    (container,) = EXPORT["containers"]
    (mount,) = (mount for mount in container["volumeMounts"] if mount["name"] == "hub")
    (volume,) = (volume for volume in EXPORT["volumes"] if volume["name"] == "hub")
    assert volume["secret"]["optional"]
    file = Path(environment(container, MODELS=VERSION)["HF_TOKEN_PATH"])
    assert file.parent == Path(mount["mountPath"])
    # As docs/kubernetes.md makes the Secret.
    assert f"secret generic {volume['secret']['secretName']} --from-file=secrets/{file.name} " in PAGE


def test_page_makes_the_secret_that_is_mounted_and_scraped_with(tmp_path: Path) -> None:
    block = PAGE.partition("## Install")[2].partition("```sh\n")[2].partition("\n```")[0]
    commands = block.splitlines()
    (create,) = (command for command in commands if "create secret" in command)
    ours = "\n".join(command for command in commands if not command.startswith("kubectl"))
    subprocess.run(["/bin/bash", "-euc", ours], cwd=tmp_path, check=True)
    made = {Path(path).name: (tmp_path / path).read_text() for path in re.findall(r"--from-file=(\S+)", create)}

    assert [path.name for path in tmp_path.iterdir()] == ["secrets"]
    assert (tmp_path / "secrets").stat().st_mode & 0o077 == 0
    (volume,) = (each["secret"] for each in GATEWAY["volumes"] if "secret" in each)
    credentials = next(within(read("components/monitoring/monitors.yaml"), "credentials"))
    assert made.keys() == {credentials["key"], *(item["key"] for item in volume["items"])}
    assert f"generic {volume['secretName']} " in create
    assert credentials["name"] == volume["secretName"]
    assert made["metrics"] in made["keys"].splitlines()  # without a newline, which no header may have
    assert len(made["keys"].splitlines()) == 2


def test_images_by_url_are_set_as_the_gateway_reads_it() -> None:
    (patch,) = read("components/image-urls/kustomization.yaml")[0]["patches"]
    (variables,) = within(yaml.safe_load(patch["patch"]), "env")
    assert Settings.from_env({one["name"]: one["value"] for one in variables}).image_hosts is not None


def test_gateway_has_time_to_answer_all_that_it_accepted() -> None:
    (container,) = GATEWAY["containers"]
    drain_s = float(environment(container, MODELS=VERSION, NAMESPACE="conch")["GATEWAY_DRAIN_TIMEOUT"])
    before_s = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert drain_s > Settings().request_timeout_s
    assert GATEWAY["terminationGracePeriodSeconds"] > before_s + drain_s + GIVE_UP_S + CLOSE_S


@pytest.mark.parametrize(("pod", "period"), [(TRITON, TRITON), (RUNTIME, INFERENCE_SERVICE)], ids=["triton", "kserve"])
def test_triton_has_time_to_answer_all_that_it_accepted(pod: Any, period: Any) -> None:
    (container,) = pod["containers"]
    exit_s = float(options(container["args"])["exit-timeout-secs"])
    before_s = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert exit_s >= Settings().request_timeout_s
    assert period["terminationGracePeriodSeconds"] > before_s + exit_s


def test_triton_listens_where_the_others_look() -> None:
    ports = {port["name"]: port["containerPort"] for port in TRITON["containers"][0]["ports"]}
    assert ports == {"http": Ports().http, "grpc": Ports().grpc, "metrics": Ports().metrics}
    (service,) = (one for one in read("base/triton.yaml") if one["kind"] == "Service")
    assert [port["port"] for port in service["spec"]["ports"]] == [Ports().grpc]


def test_triton_lets_the_gateway_ask_whether_it_lives() -> None:
    ours = options(TRITON["containers"][0]["args"])
    for name in ("grpc-http2-min-recv-ping-interval-without-data", "grpc-http2-max-ping-strikes"):
        assert f'"{name}": {ours[name]},' in Path("embedded/triton.py").read_text()


def test_triton_answers_nobody_more_than_is_needed() -> None:
    arguments = TRITON["containers"][0]["args"]
    everything = {"health", "metadata", "inference", "shared-memory", "model-config", "model-repository", "statistics"}
    everything |= {"trace", "logging"}
    assert everything - protocols(arguments, "http-restricted-api") == {"health"}
    assert everything - protocols(arguments, "grpc-restricted-protocol") == {
        "health",
        "inference",
        "metadata",
        "model-config",
        "model-repository",
    }


def test_security_page_asks_for_what_the_manifests_do() -> None:
    page = Path("docs/security.md").read_text()
    ours = {argument.partition(":")[0] for argument in TRITON["containers"][0]["args"]}
    asked = [line.partition(":")[0] for line in page.splitlines() if line.startswith("--")]
    assert len(asked) == 3
    assert set(asked) <= ours


def test_kserve_starts_triton_as_the_deployment_does() -> None:
    (theirs,), (ours,) = RUNTIME["containers"], TRITON["containers"]
    assert theirs["args"] == ours["args"]
    (waits,), (ours_waits,) = INFERENCE_SERVICE["initContainers"], TRITON["initContainers"]
    assert waits == ours_waits
    for key in ("startupProbe", "readinessProbe", "livenessProbe", "lifecycle", "securityContext"):
        assert theirs[key] == ours[key]


def test_kserve_scales_by_what_keda_does() -> None:
    (metric,) = INFERENCE_SERVICE["autoScaling"]["metrics"]
    (trigger, *_) = read("components/keda/scaled-object.yaml")[0]["spec"]["triggers"]
    assert metric["external"]["metric"]["query"] == trigger["metadata"]["query"]
    assert metric["external"]["target"] == {"type": trigger["metricType"], "value": trigger["metadata"]["threshold"]}


@pytest.mark.parametrize(("name", "container"), CONTAINERS, ids=[f"{one}-{each['name']}" for one, each in CONTAINERS])
def test_containers_are_locked(name: str, container: Any) -> None:
    pod = {"gateway": GATEWAY, "triton": TRITON, "export": EXPORT, "kserve": INFERENCE_SERVICE}[name]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    assert {"cpu", "memory"} <= set(container["resources"]["limits"])
    assert "/tmp" in {mount["mountPath"] for mount in container["volumeMounts"]}  # noqa: S108 - a mount


def test_only_the_gateway_reaches_triton_and_only_prometheus_its_metrics() -> None:
    found = {
        (port["port"], next(iter(peer["podSelector"]["matchLabels"].values())))
        for policy in POLICIES
        if policy["spec"]["podSelector"].get("matchLabels") == {"app.kubernetes.io/name": "conch-triton"}
        for rule in policy["spec"]["ingress"]
        for port in rule["ports"]
        for peer in rule["from"]
    }
    assert found == {(Ports().grpc, "conch-gateway"), (Ports().metrics, "prometheus")}
    assert any(policy["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]} for policy in POLICIES)


def test_names_are_asked_of_the_clusters_name_servers_alone() -> None:
    asked = [rule for each in within(POLICIES, "egress") for rule in each if 53 in within(rule, "port")]
    assert len(asked) == 2  # the gateway's and the export's
    for rule in asked:
        cluster, cache = rule["to"]
        assert cluster["podSelector"] == {"matchLabels": {"k8s-app": "kube-dns"}}
        assert cluster["namespaceSelector"]
        assert cache["ipBlock"]["cidr"].endswith("/32")


def test_every_way_out_leads_somewhere_in_particular() -> None:
    assert all(rule["to"] and rule["ports"] for each in within(POLICIES, "egress") for rule in each)


def test_rules_are_the_alerts() -> None:
    (rules,) = read("components/monitoring/rules.yaml")
    alerts = yaml.safe_load(Path("observability/alerts.yml").read_text())
    assert rules["spec"] == alerts, "copy the groups of observability/alerts.yml"


def test_monitors_call_jobs_what_alerts_and_dashboard_do() -> None:
    scraped = yaml.safe_load(Path("observability/prometheus.yml").read_text())
    jobs = [relabelling["replacement"] for each in within(read("components/monitoring/monitors.yaml"), "relabelings")
            for relabelling in each]  # fmt: skip
    assert jobs == [job["job_name"] for job in scraped["scrape_configs"]]


def test_pages_name_every_overlay_and_component() -> None:
    for folder in (*ROOT.glob("overlays/*"), *ROOT.glob("components/*")):
        assert f"`{folder.name}`" in PAGE
