"""The profile cpu in a fresh clone, from the first command of the page to the last."""

import json
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from tests.compose.conftest import Deployment
from tests.compose.load import LOST, load
from tests.compose.logs import unexpected
from tests.observability.test_dashboard import PANELS, expressions
from tests.waiting import eventually

UP = "docker compose up --build --detach --wait"
SHOWN = ("Models", "Triton", "Answered", "Tokens", "p95 of inference")
"""Panels of the dashboard that texts give figures to."""
NOWHERE = '\n[nothing]\nsource = "./nothing"\ntask = "text-embedding"\n'
DEFAULT_MODELS = {"all-minilm-l6-v2", "minilm-late-interaction", "minilm-pictogram"}


@pytest.fixture(scope="module")
def cpu(deployment: Deployment) -> Deployment:
    """With Prometheus. Grafana is left out, because no registry that builds may ask has it."""
    return deployment.with_settings(COMPOSE_PROFILES="cpu")


@pytest.fixture(scope="module")
def started(cpu: Deployment) -> Deployment:
    assert cpu.run("git status --porcelain --ignored") == ""
    assert "v2." in cpu.documented("docker compose version")
    cpu.documented(UP)
    return cpu


@pytest.fixture
def client(started: Deployment) -> Iterator[httpx2.Client]:
    with started.client(started.keys()[0]) as client:
        yield client


def test_printed_command_returns_an_embedding(started: Deployment) -> None:
    said = started.documented("docker compose logs --no-log-prefix secrets")
    (command,) = re.findall("^curl .*$", said, re.MULTILINE)
    answer = json.loads(started.run(f"{command} --silent --fail-with-body"))
    assert len(answer["data"][0]["embedding"]) == 384


def test_nothing_is_left_in_the_clone(started: Deployment) -> None:
    assert started.run("git status --porcelain --ignored") == ""


def test_every_service_is_well(started: Deployment) -> None:
    started.documented("docker compose ps --all")
    states = {name: one["State"] for name, one in started.states().items()}
    assert states.keys() == {"secrets", "export-cpu", "triton-cpu", "gateway"}
    for name in ("secrets", "export-cpu"):
        assert (states[name]["Status"], states[name]["ExitCode"]) == ("exited", 0)
    for name in ("triton-cpu", "gateway"):
        assert states[name]["Health"]["Status"] == "healthy"


def test_every_default_model_is_served(client: httpx2.Client) -> None:
    models = client.get("/v1/models").json()["data"]
    assert {model["id"] for model in models} == DEFAULT_MODELS
    ranking = {"query": "a sea animal", "documents": ["a trumpet", "a snail in the ocean"]}
    assert client.post("/v1/rerank", json=ranking).json()["results"][0]["index"] == 1


def test_only_the_gateway_is_published_on_loopback(started: Deployment) -> None:
    states = started.states()
    published = {
        name: {bound["HostIp"] for bounds in one["NetworkSettings"]["Ports"].values() for bound in bounds or []}
        for name, one in states.items()
    }
    assert {name: addresses for name, addresses in published.items() if addresses} == {"gateway": {"127.0.0.1"}}


def test_triton_has_no_way_out(started: Deployment) -> None:
    fetch = "curl --silent --max-time 3 http://deb.debian.org"
    assert started.run(f"docker compose exec -T triton-cpu {fetch} 2>/dev/null || echo refused") == "refused\n"


def test_services_cannot_read_the_secrets_of_others(started: Deployment) -> None:
    for service, folder, own in (("gateway", "/etc/conch", "keys"), ("triton-cpu", "/run/secrets", "triton_admin_key")):
        for name in ("keys", "metrics_key", "triton_admin_key", "grafana_password"):
            said = started.run(f"docker compose exec -T {service} cat {folder}/{name} 2>&1 || true")
            assert ("Permission denied" in said) is (name != own), said


def test_grafanas_password_is_printed_to_operators(started: Deployment) -> None:
    said = started.documented("docker compose run --rm --entrypoint cat secrets /secrets/grafana_password")
    assert said.split()[-1] in started.run("docker compose logs secrets")


def test_keys_change_while_it_runs(started: Deployment) -> None:
    first, metrics = started.documented("docker compose run --rm --entrypoint cat secrets /secrets/keys").split()[-2:]

    assert started.status("MY-NEW-KEY") == 401
    started.documented("docker compose run --rm --entrypoint sh secrets -c 'echo MY-NEW-KEY >> /secrets/keys'")
    eventually(lambda: started.status("MY-NEW-KEY") == 200)
    assert started.keys() == [first, metrics, "MY-NEW-KEY"]
    started.documented("docker compose run --rm --entrypoint sed secrets -i /MY-NEW-KEY/d /secrets/keys")
    eventually(lambda: started.status("MY-NEW-KEY") == 401)
    assert started.status(first) == 200


def test_volumes_are_kept(started: Deployment) -> None:
    keys = started.keys()
    started.documented("docker compose down")
    assert started.states() == {}
    started.documented(UP)
    assert started.keys() == keys
    assert started.run("docker compose logs --no-log-prefix secrets") == ""
    assert "up to date" in started.run("docker compose logs --no-log-prefix export-cpu")


def test_prometheus_scrapes_both_and_answers_the_dashboard(started: Deployment, client: httpx2.Client) -> None:
    observed = started.with_settings(COMPOSE_PROFILES="cpu,observability")
    observed.run("docker compose up --detach --wait gateway prometheus")

    def query(expression: str) -> list[dict[str, object]]:
        found = observed.run(
            "docker compose exec -T prometheus promtool query --format=json instant http://127.0.0.1:9090 "
            f"'{expression}'"
        )
        answer: list[dict[str, object]] = json.loads(found)
        return answer

    def unshown() -> list[str]:
        client.post("/v1/embeddings", json={"input": ["a text", "another"]})
        client.post("/v1/rerank", json={"query": "a", "documents": ["b", "c"]})
        return [one for title in SHOWN for one in expressions(PANELS[title]) if not query(one.replace("10s", "1m"))]

    eventually(lambda: len(query("up == 1")) == 2, timeout_s=60)
    eventually(lambda: not unshown(), timeout_s=120)
    observed.run("docker compose rm --stop --force prometheus")


def test_logs_have_no_errors(started: Deployment) -> None:
    assert unexpected(started.run("docker compose logs --no-color")) == ""


@pytest.mark.parametrize("service", ["triton-cpu", "gateway"])
def test_killed_process_is_back_in_seconds(service: str, started: Deployment, client: httpx2.Client) -> None:
    with load(client) as answers:
        eventually(answers.well)
        os.kill(started.states()[service]["State"]["Pid"], signal.SIGKILL)
        eventually(lambda: not answers.well())
        eventually(answers.well, lambda: str(answers), timeout_s=120)
    assert set(answers.statuses) <= {200, 503, LOST}
    assert started.states()[service]["RestartCount"] == 1


@pytest.mark.parametrize("service", ["triton-cpu", "gateway"])
def test_stopped_container_ends_well_and_serves_again_when_started(
    service: str, started: Deployment, client: httpx2.Client
) -> None:
    with load(client) as answers:
        eventually(answers.well)
        started.run(f"docker compose stop {service}")
        started.run(f"docker compose start {service}")
        eventually(answers.well, lambda: str(answers), timeout_s=120)
    assert set(answers.statuses) <= {200, 502, 503, LOST}  # 502: a model's process may end before its Triton
    assert started.states()[service]["State"]["ExitCode"] == 0


def test_model_that_fails_does_not_keep_the_others_from_being_served(started: Deployment, tmp_path: Path) -> None:
    """Neither in the export nor in Triton."""
    models = tmp_path / "models.toml"
    models.write_text((started.clone / "export/models.toml").read_text() + NOWHERE)
    models.chmod(0o644)
    broken = started.with_settings(MODELS_TOML=str(models))
    spoil = (
        "cp -r /models/minilm-pictogram-text /models/unloadable; cd /models/unloadable;"
        "sed -i s/minilm-pictogram-text/unloadable/ config.pbtxt; echo not python: > 1/model.py"
    )
    broken.run(f"docker compose run --rm --entrypoint sh export-cpu -euc '{spoil}'")
    broken.documented("docker compose up --build --detach --wait --force-recreate")
    said = broken.run("docker compose logs --no-log-prefix export-cpu")
    assert "export: [nothing] " in said
    assert "WARNING" in said
    assert broken.states()["export-cpu"]["State"]["ExitCode"] == 0
    assert "failed to load 'unloadable'" in broken.run("docker compose logs triton-cpu")
    with broken.client(broken.keys()[0]) as client:
        assert client.get("/health/ready").status_code == 200
        assert {model["id"] for model in client.get("/v1/models").json()["data"]} == DEFAULT_MODELS
        assert client.post("/v1/embeddings", json={"input": "a"}).status_code == 200


def test_own_keys_are_used(started: Deployment) -> None:
    started.run("docker compose down")
    folder = started.clone / "secrets"
    folder.mkdir()
    (folder / "keys").write_text("my own key of some length\n")
    (folder / "keys").chmod(0o644)
    own = started.with_settings(SECRETS_FOLDER="./secrets")
    own.documented(UP)
    assert own.status("my own key of some length") == 200
    assert {path.name for path in folder.iterdir()} == {"keys", "metrics_key", "triton_admin_key", "grafana_password"}
    own.run("docker compose down")


def test_everything_can_be_removed(started: Deployment) -> None:
    started.documented("docker compose --profile '*' down --volumes")
    assert started.states() == {}
    assert started.run("docker volume ls --quiet --filter label=com.docker.compose.project=conch") == ""
