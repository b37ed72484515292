"""The shell in the manifests, run as the kubelet would, in folders of this machine."""

import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path("kubernetes")
Run = Callable[..., "subprocess.CompletedProcess[str]"]


def script(path: str, kind: str, field: str) -> list[str]:
    """The command of the first container in a list of a pod."""
    (one,) = (each for each in yaml.safe_load_all((ROOT / path).read_text()) if each["kind"] == kind)
    container: Any = one["spec"]["template"]["spec"][field][0]
    return [*container["command"], *container["args"]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A function that runs a command with programs of our own, and with its absolute paths below `tmp_path`."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for folder in ("models", "plans", "repository"):
        (tmp_path / folder).mkdir(exist_ok=True)

    def call(command: list[str], *, variables: dict[str, str], **shell: str) -> subprocess.CompletedProcess[str]:
        for name, body in shell.items():
            program = programs / name.replace("_", "-")
            program.write_text(f"#!/bin/sh\n{body}\n")
            program.chmod(0o755)
        (tmp_path / "dev").mkdir(exist_ok=True)
        ours = r"(?<=[ \"=])/(?=(models|plans|repository|manifest|opt/conch|dev/termination-log)\b)"
        command = [re.sub(ours, f"{tmp_path}/", part) for part in command]
        environment = {"PATH": f"{programs}:/usr/bin:/bin", "TMP": str(tmp_path), **variables}
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)

    return call


EXPORT = script("base/models.yaml", "Job", "containers")
VERSION = {"MODELS": "v1", "BACKEND": "torch", "RELEASE": "0.1.0"}


@pytest.mark.parametrize(("status", "complete"), [(0, True), (3, True), (1, False), (137, False)])
def test_export_is_done_unless_nothing_may_be_served(tmp_path: Path, run: Run, status: int, *, complete: bool) -> None:
    done = run(EXPORT, variables=VERSION, python=f"exit {status}")
    assert (done.returncode == 0) == complete
    assert (tmp_path / "models/v1/.complete").exists() == complete
    assert ("Some models failed" in done.stdout) == (status == 3)
    assert (tmp_path / "dev/termination-log").exists() == (status == 3)


def test_export_passes_the_manifest_if_there_is_one(tmp_path: Path, run: Run) -> None:
    (tmp_path / "manifest").mkdir()
    (tmp_path / "manifest/models.toml").touch()
    done = run(EXPORT, variables=VERSION, python='echo "$@"')
    manifest = tmp_path / "manifest/models.toml"
    assert done.stdout.split() == [
        *("-m", "export", "--backend", "torch", "--repository", f"{tmp_path}/models/v1", "--manifest", str(manifest)),
    ]


def test_complete_version_is_not_exported_again(tmp_path: Path, run: Run) -> None:
    (tmp_path / "models/v1").mkdir()
    (tmp_path / "models/v1/.complete").touch()
    assert run(EXPORT, variables=VERSION, python="exit 1").returncode == 0


def test_export_says_where_it_may_not_write(tmp_path: Path, run: Run) -> None:
    (tmp_path / "models/v1").touch()  # mkdir fails, as in a folder of another user; tests may run as root
    done = run(EXPORT, variables=VERSION, python="exit 0")
    assert done.returncode == 1
    assert "cannot write to conch-models" in done.stdout


PLANS = script("overlays/gpu/triton.yaml", "Deployment", "initContainers")
GPU = "echo 'NVIDIA L4'"


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    """A complete version with one entry for torch and two for TensorRT, on a machine that passes the preflight."""
    version = tmp_path / "models/v1"
    for name, backend in (("torch", "python"), ("plan", "tensorrt"), ("bad-plan", "tensorrt")):
        (version / name).mkdir(parents=True)
        (version / name / "config.pbtxt").write_text(f'backend: "{backend}"\n')
    (version / ".complete").touch()
    (tmp_path / "opt/conch").mkdir(parents=True)
    (tmp_path / "opt/conch/preflight.sh").touch()
    entrypoint = Path("images/entrypoint.sh").read_text().replace("/opt/conch", f"{tmp_path}/opt/conch")
    (tmp_path / "opt/conch/entrypoint.sh").write_text(entrypoint)
    return version


def test_entries_are_served_unless_their_plan_is_missing(tmp_path: Path, run: Run, exported: Path) -> None:
    build = 'case "$3" in *bad-plan/|*torch/) exit 1;; *) touch "$3/built";; esac'
    done = run(PLANS, variables=VERSION, nvidia_smi=GPU, python3=build)
    assert done.returncode == 0, done.stderr
    served = tmp_path / "repository/current"
    assert sorted(each.name for each in served.iterdir()) == ["plan", "torch"]
    assert (served / "plan").readlink() == tmp_path / "plans/v1/0.1.0-NVIDIA-L4/plan"
    assert (served / "plan/built").exists()
    assert not (exported / "plan/built").exists()


@pytest.mark.usefixtures("exported")
def test_plans_are_found_by_later_pods(tmp_path: Path, run: Run) -> None:
    for _ in range(2):
        run(PLANS, variables=VERSION, nvidia_smi=GPU, python3='echo again >>"$3/builds"')
    builds = tmp_path / "plans/v1/0.1.0-NVIDIA-L4/plan/builds"
    assert builds.read_text() == "again\nagain\n"  # of the same folder, where the command finds what it built


def test_pod_fails_if_no_model_can_be_served(run: Run, exported: Path) -> None:
    (exported / "torch/config.pbtxt").write_text('backend: "tensorrt"\n')
    done = run(PLANS, variables=VERSION, nvidia_smi=GPU, python3="exit 1")
    assert done.returncode == 1
    assert "no model can be served" in done.stdout


@pytest.mark.usefixtures("exported")
def test_pod_fails_if_the_preflight_does(tmp_path: Path, run: Run) -> None:
    (tmp_path / "opt/conch/preflight.sh").write_text("echo 'preflight: the driver is 535' >&2; exit 1\n")
    done = run(PLANS, variables=VERSION, nvidia_smi=GPU, python3="exit 0")
    assert done.returncode == 1
    assert done.stderr == "preflight: the driver is 535\n"
