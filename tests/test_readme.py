"""The README is followed: every code block of it is run, in order, against what `make serve` starts; and then the calls
of docs/api.md."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from loadtest.tools.servers import PORTS, free_ports
from loadtest.tools.tiny import write_embedding
from tests.waiting import eventually


def blocks(page: str) -> list[tuple[str, str]]:
    """Languages and texts."""
    return re.findall(r"^```(\w+)\n(.*?)^```$", Path(page).read_text(), re.MULTILINE | re.DOTALL)


BLOCKS = blocks("README.md") + [block for block in blocks("docs/api.md") if block[0] == "sh"]
START_TIMEOUT_S = 240


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Of what `make serve` has started, on free ports."""
    ports = dict(zip(PORTS, map(str, free_ports(len(PORTS))), strict=True))
    output = tmp_path_factory.mktemp("readme") / "output"
    with output.open("wb") as file:
        process = subprocess.Popen(
            ["make", "serve"],  # noqa: S607 - whichever make the user has
            env=os.environ | ports,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:

        def is_ready_or_ended() -> bool:
            return "ready on http" in output.read_text() or process.poll() is not None

        eventually(is_ready_or_ended, lambda: f"greeting in {output.read_text()}", START_TIMEOUT_S)
        assert process.poll() is None, output.read_text()
        yield f"http://127.0.0.1:{ports['GATEWAY_PORT']}"
    finally:
        os.killpg(process.pid, signal.SIGINT)  # Ctrl-C, as the README says
        process.wait(30)


def run_shell(block: str, url: str, folder: Path) -> str:
    if block == "make serve\n":
        return url  # is running
    if block == "make test\n":
        return run(["make", "--dry-run", "test"])  # which runs this
    if "-m export add " in block:
        return run_add(block, folder)
    (folder / ".curlrc").write_text("fail-with-body\nsilent\n")
    return run(["bash", "-euo", "pipefail", "-c", block.replace("http://127.0.0.1:8080", url)], CURL_HOME=str(folder))


def run_add(block: str, folder: Path) -> str:
    """Add a model of the hub, with a tiny one of its architecture under that name in the hub's cache."""
    command = shlex.split(block)
    cached = folder / "hub" / f"models--{command[-1].replace('/', '--')}"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text("0" * 40)
    shutil.copytree(write_embedding(folder / "tiny"), cached / "snapshots" / ("0" * 40))
    files = ["--manifest", str(folder / "models.toml"), "--repository", str(folder / "repository")]
    return run([sys.executable, *command[1:], *files], HF_HOME=str(folder), HF_HUB_OFFLINE="1")


def run_python(block: str, url: str, _: Path) -> str:
    return run([sys.executable, "-c", block.replace("http://127.0.0.1:8080", url)])


def run_export(block: str, _: str, folder: Path) -> str:
    """Export the table of a model, with a tiny one of the same architecture in place of that on the hub."""
    (name, table), *others = tomllib.loads(block).items()
    assert not others
    assert block.count(table["source"]) == 1
    manifest = folder / "models.toml"
    manifest.write_text(block.replace(table["source"], str(write_embedding(folder / "tiny"))))
    return run(
        [sys.executable, "-m", "export", name, "--manifest", str(manifest), "--repository", str(folder / "repository")]
    )


def show(block: str, _: str, __: Path) -> str:
    return block


RUN: Mapping[str, Callable[[str, str, Path], str]] = {
    "sh": run_shell,
    "python": run_python,
    "toml": run_export,
    "mermaid": show,
}


def run(command: list[str], **environment: str) -> str:
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | environment, timeout=100
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("language", "block"), BLOCKS, ids=[f"{i}-{language}" for i, (language, _) in enumerate(BLOCKS)]
)
def test_block_works_as_it_stands(language: str, block: str, url: str, tmp_path: Path) -> None:
    assert RUN[language](block, url, tmp_path).strip()


def block_with(text: str) -> str:
    (block,) = (block for _, block in BLOCKS if text in block)
    return block


def test_curl_commands_get_what_the_text_says(url: str, tmp_path: Path) -> None:
    output, answers = run_shell(block_with("curl http://127.0.0.1:8080/v1/models\n"), url, tmp_path), list[Any]()
    while output:
        answer, end = json.JSONDecoder().raw_decode(output)
        answers.append(answer)
        output = output[end:].lstrip()
    embeddings, ranking, models = answers
    assert [len(item["embedding"]) for item in embeddings["data"]] == [384, 384]
    assert [result["index"] for result in ranking["results"]] == [0]
    assert {model["id"] for model in models["data"]} >= {"all-minilm-l6-v2", "minilm-late-interaction"}


def test_sdk_prints_two_vectors(url: str, tmp_path: Path) -> None:
    assert run_python(block_with("OpenAI("), url, tmp_path) == "2 vectors of 384 dimensions\n"
