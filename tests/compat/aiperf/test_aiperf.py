import csv
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.client("aiperf", '`--url "URL"`, and `--api-key` if there are keys')

PAGE = Path("docs/performance.md").read_text()
EMBEDDINGS, RANKINGS = (
    text.replace("\\\n", " ") for text in re.findall(r"/bin/aiperf profile (.*?)\n```", PAGE, re.DOTALL)
)
CLIENTS = 2
REQUESTS = 20
KEY = "compat-2"


def profile(command: str, url: str, folder: Path, **options: str | int) -> tuple[int, dict[str, str]]:
    """Run a command of the page with other options: the exit code, and the figures that are single numbers."""
    arguments = shlex.split(command)
    less = {"concurrency": CLIENTS, "request-count": REQUESTS}
    changed = {"url": url, "output-artifact-dir": folder, "ui": "none"} | less | options
    for name, value in changed.items():
        arguments += [f"--{name.replace('_', '-')}", str(value)]
    kept = dict(zip(arguments[::2], arguments[1::2], strict=True))  # the last of each
    program = Path(sys.executable).with_name("aiperf")
    command_line = [str(program), "profile", *(part for pair in kept.items() for part in pair)]
    done = subprocess.run(command_line, capture_output=True, text=True, check=False)
    print(done.stdout[-3000:], done.stderr[-3000:])
    report = folder / "profile_export_aiperf.csv"
    lines = list(csv.reader(report.read_text().splitlines())) if report.exists() else []
    return done.returncode, {line[0]: line[1] for line in lines if len(line) == 2}


def assert_works(found: tuple[int, dict[str, str]]) -> None:
    code, figures = found
    assert code == 0
    assert float(figures["Request Count"]) == REQUESTS
    assert float(figures["Request Error Rate (%)"]) == 0
    assert float(figures["Request Throughput (requests/sec)"]) > 0


@pytest.mark.call("`--endpoint-type embeddings`, `nim-embeddings`; `--batch-size`")
@pytest.mark.parametrize("options", [{}, {"batch_size": 16}, {"endpoint_type": "nim-embeddings"}], ids=str)
def test_embeddings(url: str, tmp_path: Path, options: dict[str, str | int]) -> None:
    assert_works(profile(EMBEDDINGS, url, tmp_path, **options))


@pytest.mark.call("`--endpoint-type cohere-rankings`, `nim-rankings`, `hf-tei-rankings`")
@pytest.mark.parametrize("kind", ["cohere-rankings", "nim-rankings", "hf-tei-rankings"])
def test_rankings(url: str, tmp_path: Path, kind: str) -> None:
    assert_works(profile(RANKINGS, url, tmp_path, endpoint_type=kind, rankings_passages_mean=5))


@pytest.mark.call("`--api-key`; refused requests are errors")
def test_key(guarded_url: str, tmp_path: Path) -> None:
    code, figures = profile(EMBEDDINGS, guarded_url, tmp_path / "right", api_key=KEY)
    assert code == 0
    assert float(figures["Request Count"]) == 10
    assert float(figures["Request Error Rate (%)"]) == 50
    code, figures = profile(EMBEDDINGS, guarded_url, tmp_path / "wrong", api_key="wrong")
    assert (code, figures) == (1, {})
