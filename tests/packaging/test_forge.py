"""What the forge reads is valid, and knows what there is."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from gateway import __version__

FORGE = Path(".github")
WORKFLOWS = FORGE / "workflows"
RENOVATE = json.loads((FORGE / "renovate.json").read_text())
FORMS = sorted(file for file in (FORGE / "ISSUE_TEMPLATE").iterdir() if file.name != "config.yml")


def run(tool: str, *arguments: str) -> None:
    """Run a tool of this environment, which fails where it finds something wrong."""
    command = [str(Path(sys.executable).with_name(tool)), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("schema", "files"),
    [
        ("github-workflows", sorted(WORKFLOWS.iterdir())),
        ("github-issue-config", [FORGE / "ISSUE_TEMPLATE" / "config.yml"]),
        ("github-issue-forms", FORMS),
        ("renovate", [FORGE / "renovate.json"]),
    ],
)
def test_file_follows_its_schema(schema: str, files: list[Path]) -> None:
    run("check-jsonschema", f"--builtin-schema=vendor.{schema}", *map(str, files))


def test_workflows_are_pinned_have_few_rights_and_expand_nothing_unsafely() -> None:
    run("zizmor", "--offline", "--strict-collection", "--no-progress", "--quiet", str(FORGE))


@pytest.mark.parametrize("file", sorted(WORKFLOWS.iterdir()), ids=lambda file: file.name)
def test_every_job_ends(file: Path) -> None:
    for name, job in yaml.safe_load(file.read_text())["jobs"].items():
        assert "uses" in job or job["timeout-minutes"] <= 60, name


def test_published_images_have_a_dockerfile_that_takes_their_version() -> None:
    job = yaml.safe_load((WORKFLOWS / "release.yml").read_text())["jobs"]["images"]
    (platforms,) = (step["with"]["platforms"] for step in job["steps"] if "platforms" in step.get("with", {}))
    assert platforms == "linux/amd64,linux/arm64"
    for image in job["strategy"]["matrix"]["image"]:
        assert "\nARG VERSION=" in Path(f"images/{image}.Dockerfile").read_text()
        assert f"| `ghcr.io/OWNER/conch-{image}` | amd64, arm64 |" in Path("docs/releasing.md").read_text()


@pytest.mark.parametrize(
    ("file", "names"),
    [
        (
            "docker-compose.yml",
            {"docker.io/grafana/grafana", "docker.io/prom/prometheus", "nvcr.io/nvidia/tritonserver"},
        ),
        (".env.example", {"docker.io/grafana/grafana", "docker.io/prom/prometheus", "nvcr.io/nvidia/tritonserver"}),
        ("images/triton-release", {"nvcr.io/nvidia/tritonserver"}),
        (".github/workflows/ci.yml", {"docker.io/library/debian"}),
        ("pyproject.toml", {"nvidia-pytriton", "torch"}),
        ("Makefile", {"swagger-ui-dist"}),
    ],
)
def test_bot_finds_the_versions_that_only_this_project_writes_so(file: str, names: set[str]) -> None:
    found = set()
    for manager in RENOVATE["customManagers"]:
        if any(re.search(pattern.strip("/"), file) for pattern in manager["managerFilePatterns"]):
            for pattern in manager["matchStrings"]:
                for match in re.finditer(pattern.replace("(?<", "(?P<"), Path(file).read_text()):
                    found.add(manager.get("depNameTemplate") or match["depName"])
                    assert re.match(r"v?\d", match["currentValue"])
    assert found == names


def test_commands_of_the_docs_have_the_version() -> None:
    pages = "".join(page.read_text() for page in Path("docs").glob("*.md"))
    assert set(re.findall(r"(?:VERSION=|conch-[$\w-]+:)(\d+\.\d+\.\d+)", pages)) == {__version__}


def test_one_address_of_the_project_is_written_everywhere() -> None:
    (address,) = re.findall(r"^repo_url: (\S+)$", Path("mkdocs.yml").read_text(), re.MULTILINE)
    files = [Path("pyproject.toml"), Path("SECURITY.md"), *(FORGE / "ISSUE_TEMPLATE").iterdir()]
    found = {url for file in files for url in re.findall(r"https://github\.com/[\w.-]+/conch\b", file.read_text())}
    assert found == {address}


def script(job: str, step: str) -> str:
    """What a step of the release runs."""
    steps = yaml.safe_load((WORKFLOWS / "release.yml").read_text())["jobs"][job]["steps"]
    (found,) = (each["run"] for each in steps if each.get("id") == step)
    return str(found)


def follow(text: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a script as the forge does."""
    command = ["/bin/bash", "-e", "-c", text]
    return subprocess.run(
        command, cwd=folder, env=os.environ | environment, capture_output=True, text=True, check=False
    )


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with the version of the code, and a changelog that knows it."""
    (tmp_path / "gateway").mkdir()
    shutil.copy("gateway/__init__.py", tmp_path / "gateway")
    sections = (
        "Unreleased",
        f"[{__version__}] - 2026-11-29\n\n### Added\n\n- This.",
        "[0.0.1] - 2026-01-01\n\n- That.",
    )
    (tmp_path / "CHANGELOG.md").write_text("".join(f"## {section}\n\n" for section in sections))
    return tmp_path


@pytest.mark.parametrize(("tag", "is_released"), [(f"v{__version__}", True), (__version__, False), ("v9.9.9", False)])
def test_only_the_tag_of_the_version_is_released(tag: str, is_released: bool, checkout: Path) -> None:
    output = checkout / "output"
    done = follow(script("version", "version"), checkout, GITHUB_REF_NAME=tag, GITHUB_OUTPUT=str(output))
    assert (done.returncode == 0) == is_released
    assert not is_released or output.read_text() == f"version={__version__}\n"


def test_version_without_a_section_in_the_changelog_is_not_released(checkout: Path) -> None:
    (checkout / "CHANGELOG.md").write_text("## Unreleased\n")
    environment = {"GITHUB_REF_NAME": f"v{__version__}", "GITHUB_OUTPUT": os.devnull}
    assert follow(script("version", "version"), checkout, **environment).returncode


def test_notes_of_a_release_are_its_section_of_the_changelog(checkout: Path) -> None:
    done = follow(script("announce", "notes"), checkout, VERSION=__version__)
    assert done.returncode == 0, done.stderr
    assert (checkout / "notes.md").read_text().strip() == "### Added\n\n- This."
