"""`make manifests`: builds what is in kubernetes/, and validates it by schemas and by checkov's policies.

Runs in an environment of its own: requirements/manifests.txt.
"""

# ruff: noqa: ANN401 - objects of YAML are of any type
import importlib.util
import json
import re
import subprocess
import sys
import tempfile
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cloudcoil.models.keda.v1alpha1 as keda
import cloudcoil.models.prometheus_operator.v1 as monitoring
import kubernetes.client
import kubernetes_validate
import yaml

from loadtest.tools.builds import BUILDS, ROOT, Object, built, kustomize, lint, objects, template

RELEASES = ("1.34", "1.37")
"""Kubernetes versions: one that is still maintained, and the newest with published schemas."""
PAGE = Path("docs/kubernetes.md")
EVERYTHING: Object = {
    "image": {"registry": "registry.example.com/team", "pullSecrets": ["registry"]},
    "models": {"next": "v2", "manifest": '[a]\ntask = "text-embedding"\n'},
    "storage": {"className": "fast"},
    "gpu": {"resource": "nvidia.com/mig-1g.10gb"},
    "triton": {"runtimeClassName": "nvidia", "nodeSelector": {"gpu": "l4"}, "extraEnv": [{"name": "A", "value": "1"}]},
    "gateway": {"service": {"type": "LoadBalancer"}, "ingress": {"enabled": True, "tlsSecret": "tls"}},
}
"""Values of the chart that the builds do not set."""


class InvalidError(Exception):
    """An object is not what its kind's schema says. Names the place."""


@dataclass(frozen=True, slots=True)
class Row:
    """The printed result of a build."""

    name: str
    objects: int
    extensions: int
    """Objects of kinds that are not Kubernetes' own."""
    passed: int
    """Checks of policies."""
    failures: tuple[str, ...]


def main() -> int:
    """Run the command; the exit code is 1 where something is wrong."""
    rows = [check(name, built(name)) for name in BUILDS]
    lint()
    rows += [check(f"chart {name}", template(values)) for name, values in charts()]
    rows.append(check("prepare", (ROOT / "prepare.yaml").read_text()))
    own, beside, values = documented()
    rows.append(check("as documented", "---\n".join([kustomize("documented", own), *map(yaml.safe_dump, beside)])))
    rows.append(check("chart as documented", template(values)))
    print(f"{'build':22} {'objects':>8} {'schemas ' + ', '.join(RELEASES):>20} {'extensions':>11} {'policies':>9}")
    for row in rows:
        print(f"{row.name:22} {row.objects:8} {row.objects - row.extensions:20} {row.extensions:11} {row.passed:9}")
    failures = [f"{row.name}: {failure}" for row in rows for failure in row.failures]
    print("\n".join(failures) or "all well; exceptions from policies are in kubernetes/checkov.yaml", flush=True)
    return 1 if failures else 0


def charts() -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The names and values of releases of the chart."""
    yield from ((name, build.values) for name, build in BUILDS.items() if build.values is not None)
    yield "everything", EVERYTHING


def documented() -> tuple[Object, list[Object], Object]:
    """The kustomization and the values that the page's YAML makes together, and the objects that its commands apply."""
    page = PAGE.read_text()
    own: Object = {}
    values: Object = {}
    for _, title, text in re.findall(r"^( *)```yaml( title=\S+)?\n(.*?)^\1```", page, re.DOTALL | re.MULTILINE):
        block = yaml.safe_load(text)
        made: Object = values if title else own
        for key, value in block.items() if isinstance(block, dict) else ():
            made[key] = made.get(key, []) + value if isinstance(value, list) else value
    applied = re.findall(r"<<'EOF'\n(.*?)^EOF$", page, re.DOTALL | re.MULTILINE)
    return own, [yaml.safe_load(text) for text in applied], values


def check(name: str, text: str) -> Row:
    """See whether all objects are right."""
    made = objects(text)
    extensions = [one for one in made if one["kind"] in EXTENSIONS]
    failures = []
    for one in made:
        try:
            if one["kind"] in EXTENSIONS:
                EXTENSIONS[one["kind"]](one)
            else:
                for release in RELEASES:
                    kubernetes_validate.validate(one, release, strict=True)
        except (InvalidError, ValueError, kubernetes_validate.ValidationError) as exc:
            failures.append(f"{one['kind']} {one['metadata']['name']}: {exc}")
    failures += mixed(made)
    passed, refused = scan(text)
    return Row(name, len(made), len(extensions), passed, (*failures, *refused))


def mixed(objects: Sequence[Object]) -> Iterator[str]:
    """Images of models that are not of the version that pods say they are."""
    for one in objects:
        pod = one["spec"]["template"] if one["kind"] == "Deployment" else {}
        for volume in pod.get("spec", {}).get("volumes", ()):
            reference, version = volume.get("image", {}).get("reference"), pod["metadata"]["labels"]["models"]
            if reference and not reference.endswith(f":{version}"):
                yield f"Deployment {one['metadata']['name']}: {reference} is not of version {version}"


def scan(text: str) -> tuple[int, list[str]]:
    """The number of policy checks that pass, and the failed ones."""
    options = [f"--config-file={ROOT / 'checkov.yaml'}", "--skip-download", "--output=json", "--soft-fail"]
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        file.write(text)
        file.flush()
        # Not its script, which names Python in its first line, where no path may have a space.
        command = [sys.executable, "-m", "checkov.main", f"--file={file.name}", "--framework=kubernetes", *options]
        done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603 - our own command
    report = json.loads(done.stdout)
    failed = [f"{one['check_id']} {one['check_name']}: {one['resource']}" for one in report["results"]["failed_checks"]]
    return report["summary"]["passed"], failed


def modelled(model: Any) -> Callable[[Object], None]:
    """A check by a model made of a custom resource definition: what it does not know gets lost in it."""

    def holds(given: Object) -> None:
        understood = model.model_validate(given).model_dump(mode="json", by_alias=True, exclude_unset=True)
        for path, value in leaves(given):
            if path not in dict(leaves(understood)):
                raise InvalidError(f"{path}: {value!r} is not in the schema")

    return holds


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """All that is not a mapping or a list, with where it is."""
    if isinstance(value, dict):
        for key, part in value.items():
            yield from leaves(part, f"{path}.{key}")
    elif isinstance(value, list):
        for index, part in enumerate(value):
            yield from leaves(part, f"{path}[{index}]")
    else:
        yield path, value


def kserve_models() -> types.ModuleType:
    """The classes that KServe's SDK has for its kinds, without the servers that it imports beside them."""
    spec = importlib.util.find_spec("kserve")
    package = types.ModuleType("kserve")
    package.__path__ = list(spec.submodule_search_locations or ()) if spec else []
    sys.modules["kserve"] = package
    return importlib.import_module("kserve.models")


def generated(models: types.ModuleType, kind: str) -> Callable[[Object], None]:
    """A check by the classes of an OpenAPI generator."""

    def made(value: Any, wanted: str, path: str) -> Any:
        if nested := re.fullmatch(r"list\[(.+)\]", wanted):
            return [made(part, nested[1], f"{path}[{index}]") for index, part in enumerate(value)]
        if nested := re.fullmatch(r"dict\(str, (.+)\)", wanted):
            return {key: made(part, nested[1], f"{path}.{key}") for key, part in value.items()}
        model = getattr(models, wanted, None) or getattr(kubernetes.client, wanted, None)
        if model is None:
            if wanted in PLAIN and not isinstance(value, PLAIN[wanted]):
                raise InvalidError(f"{path}: {value!r} is not of type {wanted}")
            return value
        names = {given: ours for ours, given in model.attribute_map.items()}
        if strange := set(value) - set(names):
            raise InvalidError(f"{path}: {wanted} has no {', '.join(sorted(strange))}")
        # Raises ValueError where something is missing.
        return model(
            **{names[key]: made(part, model.openapi_types[names[key]], f"{path}.{key}") for key, part in value.items()}
        )

    return lambda given: made(given, kind, "")


PLAIN: dict[str, type] = {"str": str, "int": int, "bool": bool}
KSERVE = kserve_models()
EXTENSIONS: dict[str, Callable[[Object], None]] = {
    "ServiceMonitor": modelled(monitoring.ServiceMonitor),
    "PodMonitor": modelled(monitoring.PodMonitor),
    "PrometheusRule": modelled(monitoring.PrometheusRule),
    "ScaledObject": modelled(keda.ScaledObject),
    "ServingRuntime": generated(KSERVE, "V1alpha1ServingRuntime"),
    "InferenceService": generated(KSERVE, "V1beta1InferenceService"),
}


if __name__ == "__main__":
    sys.exit(main())
