"""The default profile, without a GPU: programs are compiled for the CPU, on which Triton runs them."""

import json
import re

import pytest

from tests.compose.conftest import Deployment
from tests.compose.logs import unexpected

MODEL = "all-minilm-l6-v2"
"""The only one here, because a compiler of C++ takes its time."""


@pytest.fixture(scope="module")
def started(deployment: Deployment, tmp_path_factory: pytest.TempPathFactory) -> Deployment:
    assert "COMPOSE_PROFILES" not in deployment.environment
    models = tmp_path_factory.mktemp("models") / "models.toml"
    tables = (deployment.clone / "export/models.toml").read_text().split("\n[")
    models.write_text("\n[".join(table for table in tables if table.startswith(("#", f"{MODEL}]"))))
    started = deployment.with_settings(MODELS_TOML=str(models))
    started.documented("docker compose up --build --detach --wait")
    return started


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
    assert f"plan {MODEL}: compiled: " in said
    assert re.search(rf"{MODEL} computes in \w+ on a CPU, compiled", said)


def test_compiled_programs_are_kept(started: Deployment) -> None:
    started.documented("docker compose down")
    started.documented("docker compose up --build --detach --wait")
    assert f"plan {MODEL}: up to date" in started.run("docker compose logs compile")


def test_logs_have_no_errors(started: Deployment) -> None:
    assert "ready" in started.documented("docker compose logs gateway triton")
    assert unexpected(started.run("docker compose logs --no-color")) == ""


def test_container_without_a_gpu_says_what_is_missing(started: Deployment) -> None:
    said = started.run("docker compose run --rm -e CONCH_PREFLIGHT=on compile true 2>&1 || true")
    assert "preflight: no GPU is visible in this container" in said


def test_program_that_does_not_compile_is_served_as_it_is(started: Deployment) -> None:
    """Here, because the compiler is not found."""
    started.documented("docker compose down")
    started.run("docker compose run --rm --entrypoint sh export -c 'rm /models/*/1/compiled.*'")
    started.run("docker compose run --rm -e CXX=/nowhere compile")
    started.run("docker compose up --detach --wait --no-deps secrets triton gateway")
    assert re.search(
        r"all-minilm-l6-v2 computes in \w+ on a CPU, not compiled", started.run("docker compose logs triton")
    )
    started.documented("docker compose run --rm --entrypoint rm export -r /models/NAME", MODEL)
    assert MODEL not in started.run("docker compose run --rm --entrypoint ls export /models")
    started.documented("docker compose --profile '*' down --volumes")
