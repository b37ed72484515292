"""Every command of docs/docker.md is run by the tests of this folder, except those that need what no test has."""

import re
from pathlib import Path

from tests.compose.conftest import PAGE

ELSEWHERE = {
    "sh images/preflight.sh": "tests/test_preflight.py",
    "docker compose run --rm loadtest --model all-minilm-l6-v2": "needs NVIDIA's SDK image",
}


def commands() -> set[str]:
    """Of the page: lines of its blocks, and what its text and tables name."""
    page, heading, _ = PAGE.partition("\n## Not yet verified")
    assert heading
    blocks = re.findall(r"```sh\n(.*?)```", page, re.DOTALL)
    lines = {line.strip() for block in blocks for line in block.splitlines()}
    return lines | set(re.findall(r"`((?:docker compose|sh) [^`]+)`", page))


def test_every_command_is_run() -> None:
    tests = "\n".join(file.read_text() for file in Path(__file__).parent.glob("test_*.py"))
    left = {command for command in commands() - ELSEWHERE.keys() if command not in tests}
    assert left == set()
