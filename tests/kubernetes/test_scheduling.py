"""Where pods fit, and whether a rollout can end there."""

import re
from typing import Any

import pytest

from loadtest.tools.builds import BUILDS, Object, built, objects

CORES, MEMORY = 4.0, 16.0
"""Of g4dn.xlarge, g5.xlarge, g6.xlarge and g2-standard-4, in cores and GiB: the common nodes with one GPU."""
RESERVED_CORES = 0.5
"""By the kubelet (0.08 on GKE, 0.14 on AKS), and by what clouds run on each node."""
RESERVED_MEMORY = 0.25 * 4 + 0.2 * 4 + 0.1 * 8 + 0.1 + 0.8
"""GiB: what GKE and AKS reserve (a quarter of the first 4, a fifth of the next 4, a tenth of the next 8), the threshold
of eviction, and what clouds run on each node."""
UNITS = {"": 1.0, "m": 0.001, "Mi": 1 / 1024, "Gi": 1.0}


def made(name: str) -> list[Object]:
    return objects(built(name))


def quantity(text: str) -> float:
    match = re.fullmatch(r"([0-9.]+)(m|Mi|Gi)?", text)
    assert match, text
    return float(match[1]) * UNITS[match[2] or ""]


def requested(pod: Any, resource: str) -> float:
    """What the scheduler counts: containers run together, init containers before them."""
    together, *before = (
        sum(quantity(each["resources"]["requests"][resource]) for each in containers)
        for containers in (pod["containers"], *([one] for one in pod.get("initContainers", [])))
    )
    return max(together, *before, 0)


def pods(objects: list[Object]) -> dict[str, Any]:
    return {one["metadata"]["name"]: one["spec"]["template"]["spec"] for one in objects if "template" in one["spec"]}


def deployment(name: str, of: str) -> Any:
    (one,) = (one for one in made(name) if (one["kind"], one["metadata"]["name"]) == ("Deployment", of))
    return one["spec"]


@pytest.mark.parametrize("name", ["gpu", "tensorrt", "cpu"])
def test_all_pods_fit_a_common_node_even_in_a_rollout(name: str) -> None:
    every = pods([one for one in made(name) if one["kind"] in {"Deployment", "Job"}])
    assert every.keys() == {"conch-triton", "conch-gateway", "conch-export-v1"}
    at_once = [*every.values(), every["conch-gateway"]]  # the old one and the new one
    assert sum(requested(pod, "cpu") for pod in at_once) <= CORES - RESERVED_CORES
    assert sum(requested(pod, "memory") for pod in at_once) <= MEMORY - RESERVED_MEMORY


@pytest.mark.parametrize("name", [name for name, build in BUILDS.items() if build.overlay != "kserve"])
def test_rollout_needs_no_more_gpus_than_are_in_use(name: str) -> None:
    strategy = deployment(name, "conch-triton")["strategy"]
    assert strategy == {"type": "Recreate"} or strategy["rollingUpdate"] == {"maxSurge": 0, "maxUnavailable": 1}


@pytest.mark.parametrize("name", BUILDS)
def test_volume_of_one_node_has_its_pods_there(name: str) -> None:
    every = made(name)
    modes = [mode for one in every if one["kind"] == "PersistentVolumeClaim" for mode in one["spec"]["accessModes"]]
    one_node = [pod for pod in pods([one for one in every if one["kind"] in {"Deployment", "Job"}]).values()
                if "affinity" in pod]  # fmt: skip
    mounts = any(one["metadata"]["name"] == "conch-models" for one in every)
    assert bool(one_node) == (mounts and "ReadWriteOnce" in modes)
    for pod in one_node:
        (term,) = pod["affinity"]["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
        assert term["topologyKey"] == "kubernetes.io/hostname"


@pytest.mark.parametrize("name", [name for name, build in BUILDS.items() if "ha" not in build.components])
def test_no_budget_keeps_the_only_pod_on_a_node(name: str) -> None:
    budgets = [one for one in made(name) if one["kind"] == "PodDisruptionBudget"]
    assert all(one["spec"]["maxUnavailable"] == 1 for one in budgets)
    assert not budgets or name == "kserve"


@pytest.mark.parametrize(("name", "kind", "field"), [
    ("gpu-hpa", "HorizontalPodAutoscaler", "minReplicas"),
    ("gpu-ha-keda", "ScaledObject", "minReplicaCount"),
    ("cpu-ha-hpa-image", "HorizontalPodAutoscaler", "minReplicas"),
])  # fmt: skip
def test_autoscalers_keep_the_replicas_that_were_asked_for(name: str, kind: str, field: str) -> None:
    (scaler,) = (one for one in made(name) if (one["kind"], one["metadata"]["name"]) == (kind, "conch-triton"))
    assert scaler["spec"][field] == (2 if "ha" in BUILDS[name].components else 1)
    assert "replicas" not in deployment(name, "conch-triton")


def test_pods_with_whole_cores_may_have_them_alone() -> None:
    """The kubelet gives cores only to a pod of the class Guaranteed: no container asks for less than its limit."""
    pod = deployment("cpu", "conch-triton")["template"]["spec"]
    for container in (*pod["containers"], *pod["initContainers"]):
        assert container["resources"]["requests"] == container["resources"]["limits"]
