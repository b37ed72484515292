"""The default profile, without a GPU: programs are compiled for the CPU, on which Triton runs them."""

import json
import re

import pytest

from tests.compose.conftest import Deployment
from tests.compose.logs import unexpected

MODELS = {"all-minilm-l6-v2", "minilm-late-interaction", "minilm-pictogram-image", "minilm-pictogram-text"}


@pytest.fixture(scope="module")
def started(deployment: Deployment) -> Deployment:
    assert "COMPOSE_PROFILES" not in deployment.environment
    deployment.documented("docker compose up --build --detach --wait")
    return deployment


def test_printed_command_returns_an_embedding(started: Deployment) -> None:
    said = started.documented("docker compose logs --no-log-prefix secrets")
    (command,) = re.findall("^curl .*$", said, re.MULTILINE)
    answer = json.loads(started.run(f"{command} --silent --fail-with-body"))
    assert len(answer["data"][0]["embedding"]) == 384


def test_programs_are_compiled_and_served(started: Deployment) -> None:
    states = {name: one["State"] for name, one in started.states().items()}
    assert states.keys() == {"secrets", "export", "compile", "triton", "gateway"}
    assert all(states[name]["ExitCode"] == 0 for name in ("secrets", "export", "compile"))
    said = started.documented("docker compose logs export compile triton")
    assert set(re.findall(r"plan ([\w-]+): compiled: ", said)) == MODELS
    assert set(re.findall(r"([\w-]+) computes in \w+ on a CPU, compiled", said)) == MODELS


def test_compiled_programs_are_kept(started: Deployment) -> None:
    started.documented("docker compose down")
    started.documented("docker compose up --build --detach --wait")
    assert set(re.findall(r"plan ([\w-]+): up to date", started.run("docker compose logs compile"))) == MODELS


def test_logs_have_no_errors(started: Deployment) -> None:
    assert "ready" in started.documented("docker compose logs gateway triton")
    assert unexpected(started.run("docker compose logs --no-color")) == ""


def test_container_without_a_gpu_says_what_is_missing(started: Deployment) -> None:
    said = started.run("docker compose run --rm -e CONCH_PREFLIGHT=on compile true 2>&1 || true")
    assert "preflight: no GPU is visible in this container" in said


def test_program_that_does_not_compile_is_served_as_it_is(started: Deployment) -> None:
    """Here, because the compiler is not found."""
    started.documented("docker compose down")
    started.run("docker compose run --rm --entrypoint sh export -c 'rm /models/all-minilm-l6-v2/1/compiled.*'")
    started.run("docker compose run --rm -e CXX=/nowhere compile")
    started.run("docker compose up --detach --wait --no-deps secrets triton gateway")
    assert re.search(
        r"all-minilm-l6-v2 computes in \w+ on a CPU, not compiled", started.run("docker compose logs triton")
    )
    started.documented("docker compose run --rm --entrypoint rm export -r /models/NAME", "minilm-late-interaction")
    assert "minilm-late-interaction" not in started.run("docker compose run --rm --entrypoint ls export /models")
    started.documented("docker compose --profile '*' down --volumes")
