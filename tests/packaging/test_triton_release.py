"""One file names the release of Triton, and every other mention agrees with it."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

NAMED = Path("images/triton-release")
MENTION = re.compile(r"tritonserver:\d\d\.\d\d|\d\d\.\d\d-py3|Triton \d\d\.\d\d accepts")
PAST = {"CHANGELOG.md", "docs/releasing.md"}
"""Pages that compare releases."""


def run(*command: str, folder: Path = Path()) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def files() -> list[Path]:
    """All files of the project, those not yet committed too."""
    found = run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard").stdout.split("\0")
    return [Path(file) for file in found if file and file not in PAST and Path(file).is_file()]


def mentions(file: Path) -> Iterator[str]:
    """Releases of Triton that a file names."""
    for match in MENTION.finditer(file.read_text(errors="ignore")):
        yield "".join(re.findall(r"\d\d\.\d\d", match[0]))


def test_every_mention_is_of_the_release() -> None:
    (release,) = mentions(NAMED)
    found = {file: set(mentions(file)) for file in files()}
    assert {file: names for file, names in found.items() if names and names != {release}} == {}
    assert {Path("docker-compose.yml"), Path("kubernetes/overlays/tensorrt/kustomization.yaml")} <= {
        file for file, names in found.items() if names
    }


def test_make_triton_changes_every_mention(tmp_path: Path) -> None:
    checkout = tmp_path / "a checkout"
    for file in files():
        if list(mentions(file)) or file == Path("Makefile"):
            (checkout / file).parent.mkdir(parents=True, exist_ok=True)
            (checkout / file).write_bytes(file.read_bytes())
    run("git", "init", folder=checkout)
    run("git", "add", ".", folder=checkout)
    done = run("make", "triton", "RELEASE=31.12", folder=checkout)
    assert done.returncode == 0, done.stderr
    copies = [file for file in checkout.rglob("*") if file.is_file() and ".git" not in file.parts]
    assert {name for file in copies for name in mentions(file)} == {"31.12"}


def test_make_triton_refuses_what_is_no_release() -> None:
    done = run("make", "triton")
    assert done.returncode
    assert "choose a release" in done.stderr
