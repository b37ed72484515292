"""The chart makes what the overlays and components do, and what is in its values besides."""

from typing import Any

import pytest
import yaml

from gateway import __version__
from loadtest.tools.builds import BUILDS, CHART, Object, kustomization, kustomize, objects, template

HELMS = {"app.kubernetes.io/instance", "app.kubernetes.io/managed-by", "helm.sh/chart", "helm.sh/resource-policy"}
"""Labels and annotations that a release has and a kustomization has not."""


def same(one: Object) -> Object:
    """An object as both would make it: without what Helm adds, and without order where there is none."""
    labels = one["metadata"].pop("labels", {})
    one["metadata"]["labels"] = {key: labels[key] for key in {"app.kubernetes.io/name"} & labels.keys()}
    one["metadata"]["name"] = one["metadata"]["name"].removesuffix(suffix(one))
    one["metadata"]["namespace"] = "conch"
    return normal(one)


def suffix(one: Object) -> str:
    """What the chart puts behind the name of a Job."""
    name = str(one["metadata"]["name"])
    return name[-9:] if one["kind"] == "Job" and name.count("-") == 3 else ""


def normal(value: Any) -> Any:
    if isinstance(value, dict):
        parts = {key: normal(part) for key, part in value.items() if key not in HELMS}
        return {key: part for key, part in parts.items() if part or key not in {"matchLabels", "annotations", "labels"}}
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
    theirs = named(objects(kustomize(name, kustomization(build))))
    assert ours.keys() == theirs.keys()
    for key, made in ours.items():
        assert made == theirs[key], key


def test_versions_are_the_projects() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert (chart["version"], chart["appVersion"]) == (__version__, __version__)
