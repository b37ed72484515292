"""Builds what is in kubernetes/: overlays with components by kubectl, and the chart, which makes the same, by Helm.

`make .manifests/tools/installed` installs both programs.
"""

import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path("kubernetes")
CHART = ROOT / "chart"
RELEASE = "conch"
NAMESPACE = "conch"
_FOLDER = Path(".manifests/build")
_TOOLS = Path(".manifests/tools")

Object = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Build:
    """An overlay with components, and the values by which the chart makes the same."""

    overlay: str
    components: tuple[str, ...] = ()
    values: Mapping[str, Any] | None = field(default_factory=dict)
    """None: the chart has no such thing."""


_MONITORING = {"monitoring": {"enabled": True}}
_IMAGES = {"models": {"image": "registry.example.com/conch-models"}}
BUILDS: Mapping[str, Build] = {
    "gpu": Build("overlays/gpu"),
    "tensorrt": Build("overlays/tensorrt", (), {"engine": "tensorrt"}),
    "cpu": Build("overlays/cpu", (), {"engine": "openvino"}),
    "gpu-hpa": Build("overlays/gpu", ("monitoring", "hpa"), _MONITORING | {"autoscaling": {"kind": "hpa"}}),
    "gpu-images": Build(
        "overlays/gpu", ("image-volume", "image-urls"), _IMAGES | {"imageUrls": {"hosts": ["images.example.com"]}}
    ),
    "tensorrt-ha": Build("overlays/tensorrt", ("ha",), {"engine": "tensorrt", "highAvailability": True}),
    "gpu-ha-keda": Build(
        "overlays/gpu",
        ("ha", "monitoring", "keda"),
        _MONITORING | {"highAvailability": True, "autoscaling": {"kind": "keda"}},
    ),
    "cpu-ha-hpa-image": Build(
        "overlays/cpu",
        ("ha", "monitoring", "hpa", "image-volume"),
        _MONITORING | _IMAGES | {"engine": "openvino", "highAvailability": True, "autoscaling": {"kind": "hpa"}},
    ),
    "kserve": Build("kserve", ("monitoring",), None),
}


@cache
def built(name: str) -> str:
    """The objects of one of the builds, as YAML."""
    build, up = BUILDS[name], f"../{ROOT}"
    components = [f"{up}/components/{component}" for component in build.components]
    return kustomize(name, {"resources": [f"{up}/{build.overlay}"], "components": components})


def kustomize(name: str, own: Object) -> str:
    """The objects of a user's own kustomization beside kubernetes/, as YAML."""
    folder = _FOLDER / name
    folder.mkdir(parents=True, exist_ok=True)
    up = "../" * len(folder.parts)
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(own).replace("../kubernetes", f"{up}{ROOT}"))
    return _run("kubectl", "kustomize", str(folder))


def template(values: Mapping[str, Any], release: str = RELEASE, namespace: str = NAMESPACE) -> str:
    """The objects of a release of the chart, as YAML."""
    options = ["--namespace", namespace, "--api-versions", "monitoring.coreos.com/v1", "--values", "-"]
    return _run("helm", "template", release, str(CHART), *options, stdin=json.dumps(values))


def notes(release: str = RELEASE, namespace: str = NAMESPACE) -> str:
    """What Helm prints once the chart is installed, and about the installation."""
    return _run("helm", "install", release, str(CHART), "--namespace", namespace, "--dry-run=client")


def lint() -> str:
    """What Helm says of the chart.

    Raises:
        subprocess.CalledProcessError: it finds something wrong.
    """
    return _run("helm", "lint", "--strict", str(CHART))


def objects(text: str) -> list[Object]:
    """The objects in YAML."""
    return [one for one in yaml.load_all(text, yaml.CSafeLoader) if one is not None]


def _run(program: str, *arguments: str, stdin: str = "") -> str:
    command: Sequence[str] = [str(_TOOLS / program / program), *arguments]
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)  # noqa: S603 - our own command
    if done.returncode != 0:
        raise subprocess.CalledProcessError(done.returncode, command, done.stdout, done.stderr)
    return done.stdout
