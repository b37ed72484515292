"""docker-compose.yml, by Docker Compose itself, which its wheel brings: no Docker is asked."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import textwrap
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway import __version__
from loadtest.perf import KEY_HEADER

COMPOSE = Path("docker-compose.yml").read_text()
EXAMPLE = Path(".env.example").read_text()
ALWAYS = {"gateway"}


def config(profiles: str, tmp_path: Path, *beside: Path, **variables: str) -> dict[str, Any]:
    """What Compose makes of it, and of files beside it."""
    binary = Path(sys.executable).with_name("docker-compose")
    files = [f"--file={file}" for file in ("docker-compose.yml", *beside)]
    environment = {"PATH": os.environ["PATH"], "COMPOSE_PROFILES": profiles, "TRITON_ADMIN_KEY": "k"} | variables
    done = subprocess.run(
        [str(binary), "--env-file", os.devnull, *files, "config", "--format", "json"],
        capture_output=True,
        text=True,
        check=False,
        env=environment | {"HOME": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize(
    ("profiles", "services"),
    [
        ("gpu", {"export", "triton"}),
        ("tensorrt", {"export-tensorrt", "plans", "triton-tensorrt"}),
        ("cpu", {"export-cpu", "triton-cpu"}),
        ("cpu,observability,loadtest", {"export-cpu", "triton-cpu", "prometheus", "grafana", "loadtest"}),
    ],
)
def test_profile_brings_up_what_it_is_for(profiles: str, services: set[str], tmp_path: Path) -> None:
    assert config(profiles, tmp_path)["services"].keys() == ALWAYS | services


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("compose")
    services: dict[str, dict[str, Any]] = config("gpu,tensorrt,cpu,observability,loadtest", folder)["services"]
    return services


def test_only_the_gateway_is_published_and_grafana_to_this_host(everything: dict[str, dict[str, Any]]) -> None:
    published = {name: service["ports"] for name, service in everything.items() if service.get("ports")}
    assert published.keys() == {"gateway", "grafana"}
    assert all(port["host_ip"] == "127.0.0.1" for ports in published.values() for port in ports)


def test_every_service_is_locked_down(everything: dict[str, dict[str, Any]]) -> None:
    for name, service in everything.items():
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["pids_limit"], name


def test_memory_is_limited_where_it_does_not_depend_on_models(
    everything: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    limits = {name: int(service["mem_limit"]) for name, service in everything.items() if "mem_limit" in service}
    assert {name for name, limit in limits.items() if limit} == {"gateway", "prometheus", "grafana"}
    assert config("gpu", tmp_path, TRITON_MEMORY="16g")["services"]["triton"]["mem_limit"] == str(16 * 2**30)


TRITONS = {"triton", "triton-tensorrt", "triton-cpu"}


def neighbours(services: dict[str, dict[str, Any]], network: str) -> set[str]:
    return {name for name, each in services.items() if network in each.get("networks", {})}


def test_triton_has_no_way_out(everything: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    networks = config("gpu", tmp_path)["networks"]
    for name in TRITONS:
        assert everything[name]["networks"].keys() == {"serve"}
    assert networks["serve"]["internal"]


def test_only_who_has_business_with_triton_reaches_it(everything: dict[str, dict[str, Any]]) -> None:
    assert neighbours(everything, "serve") == TRITONS | {"gateway", "prometheus", "loadtest"}
    assert neighbours(everything, "watch") == {"prometheus", "grafana"}
    assert neighbours(everything, "outside") == {"gateway", "grafana"}


def test_gateway_sees_its_keys_in_a_folder_as_in_kubernetes(everything: dict[str, dict[str, Any]]) -> None:
    gateway = everything["gateway"]
    file = Path(gateway["environment"]["GATEWAY_API_KEYS_FILE"])
    assert f"value: {file}\n" in Path("kubernetes/base/gateway.yaml").read_text()
    (mount,) = (each for each in gateway["volumes"] if each["target"] == str(file.parent))
    assert mount["type"] == "bind"
    assert mount["read_only"]
    assert not mount["bind"].get("create_host_path")  # Docker would make it empty, and root's
    assert Path(mount["source"]) == Path("secrets/gateway").absolute()


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    """A folder after the commands of the page but the one that starts it, by somebody careful."""
    (block,) = re.findall(
        r"```sh\n(.+?)docker compose up", Path("docs/docker.md").read_text().partition("\n## ")[0], re.DOTALL
    )
    shutil.copy(".env.example", tmp_path)
    subprocess.run(["/bin/bash", "-euc", f"umask 077\n{block}"], cwd=tmp_path, check=True)
    return tmp_path


def test_page_makes_what_is_mounted_for_containers_to_read_and_nobody_else(prepared: Path) -> None:
    assert all((prepared / name).is_file() for name in re.findall(r"-(\./secrets/\w+)\}\"", COMPOSE))
    keys = (prepared / "secrets/gateway/keys").read_text().split()
    assert len(keys) == 2
    assert (prepared / "secrets/metrics_key").read_text().strip() in keys
    assert (prepared / "secrets").stat().st_mode & 0o077 == 0
    for path in (prepared / "secrets").rglob("*"):
        assert path.stat().st_mode & 0o005 == (0o005 if path.is_dir() else 0o004)


def test_page_keeps_the_key_in_env_from_others(prepared: Path) -> None:
    assert re.search(r"^TRITON_ADMIN_KEY=\w{48}$", (prepared / ".env").read_text(), re.MULTILINE)
    assert (prepared / ".env").stat().st_mode & 0o077 == 0


def test_secrets_are_seen_by_those_who_use_them(everything: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    seen = {name: {each["source"] for each in one.get("secrets", [])} for name, one in everything.items()}
    assert {name: secrets for name, secrets in seen.items() if secrets} == {
        "prometheus": {"metrics_key"},
        "grafana": {"grafana_password"},
    }
    for secret in config("observability", tmp_path)["secrets"].values():
        assert "gateway" not in Path(secret["file"]).parts


def test_plans_are_built_without_a_network(everything: dict[str, dict[str, Any]]) -> None:
    assert everything["plans"]["network_mode"] == "none"


def test_triton_is_started_as_in_kubernetes(everything: dict[str, dict[str, Any]]) -> None:
    deployment = next(yaml.safe_load_all(Path("kubernetes/base/triton.yaml").read_text()))
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    own = ("--model-repository=", "--exit-timeout-secs=")

    def shared(arguments: list[str], key: str) -> set[str]:
        return {argument.removesuffix(f"={key}") for argument in arguments if not argument.startswith(own)}

    for name in TRITONS:
        assert shared(everything[name]["command"], "k") == shared(container["args"], "$(POD_UID)")


def test_there_is_more_time_to_stop_than_is_taken(everything: dict[str, dict[str, Any]]) -> None:
    triton = everything["triton"]
    (exit_timeout,) = (int(each.partition("=")[2]) for each in triton["command"] if each.startswith("--exit-timeout"))
    assert exit_timeout < int(triton["stop_grace_period"].removesuffix("s"))
    assert everything["gateway"]["stop_grace_period"] == "20s"  # twice the default of GATEWAY_DRAIN_TIMEOUT


def test_load_test_runs_its_script_with_the_key_for_statistics(everything: dict[str, dict[str, Any]]) -> None:
    (lock,) = (each for each in everything["triton"]["command"] if each.startswith("--grpc-restricted-protocol="))
    protocols, header, key = re.split("[:=]", lock.partition("=")[2])
    assert "statistics" in protocols.split(",")
    given = everything["loadtest"]["entrypoint"]
    assert given[given.index("-H") + 1] == f"{KEY_HEADER}:{key}"
    assert f"triton-grpc-protocol-{header}" == KEY_HEADER
    (mount,) = everything["loadtest"]["volumes"]
    assert given[:2] == ["python3", mount["target"]]
    assert mount["read_only"]
    assert Path(mount["source"]) == Path("loadtest/perf.py").absolute()


def test_only_the_export_gets_the_token_of_the_hub(tmp_path: Path) -> None:
    given = "of the hub"
    services = config("gpu,tensorrt,cpu,observability,loadtest", tmp_path, HF_TOKEN=given)["services"]
    holders = {name for name, each in services.items() if given in json.dumps(each)}
    assert holders == {"export", "export-tensorrt", "export-cpu"}


def test_folder_that_the_page_mounts_is_beside_the_manifest(tmp_path: Path) -> None:
    (text,) = re.findall(r"^  ```yaml\n(.*?)^  ```", Path("docs/docker.md").read_text(), re.DOTALL | re.MULTILINE)
    override = tmp_path / "docker-compose.override.yml"
    override.write_text(textwrap.dedent(text))
    mounted = {Path(each["target"]) for each in config("gpu", tmp_path, override)["services"]["export"]["volumes"]}
    assert Path("/app/export/models.toml").with_name("my-model") in mounted
    assert Path("/app/export/models.toml") in mounted


def test_example_of_settings_has_every_variable_with_its_default() -> None:
    used = dict(re.findall(r"\$\{([A-Z_]+)(?::[-?]([^}]*))?\}", COMPOSE))
    passed = set(re.findall(r"^      - ((?:GATEWAY|OTEL)_[A-Z_]+)$", COMPOSE, re.MULTILINE)) | {"HF_TOKEN"}
    shown = dict(re.findall(r"^(?:# )?([A-Z_]+)=(.*)$", EXAMPLE, re.MULTILINE))
    assert shown.keys() == used.keys() | passed | {"COMPOSE_PROFILES"}
    assert {name: shown[name] for name in used if name != "TRITON_ADMIN_KEY"} == {
        name: default for name, default in used.items() if name != "TRITON_ADMIN_KEY"
    }


def test_gateway_takes_every_setting_that_the_settings_page_lists(everything: dict[str, dict[str, Any]]) -> None:
    read = set(re.findall(r"\bGATEWAY_[A-Z_]*[A-Z]\b", Path("gateway/settings.py").read_text()))
    fixed_in_the_image = {"GATEWAY_HOST", "GATEWAY_PORT", "GATEWAY_MODEL_REPOSITORY"}
    of_make_serve = {"GATEWAY_HEARTBEAT_FILE"}
    given = {name for name in everything["gateway"]["environment"] if name.startswith("GATEWAY_")}
    assert given | fixed_in_the_image | of_make_serve | {"GATEWAY_API_KEYS"} == read


def test_images_bear_the_version_of_the_code() -> None:
    assert set(re.findall(r"CONCH_VERSION(?::-|=)([\d.]+)", COMPOSE + EXAMPLE)) == {__version__}


@pytest.mark.parametrize(("status", "code"), [(200, 0), (503, 1)])
def test_gateways_health_check_asks_the_gateway_and_no_proxy(status: int, code: int) -> None:
    dockerfile = Path("images/gateway.Dockerfile").read_text()
    check = json.loads(dockerfile.partition("HEALTHCHECK ")[2].partition("CMD ")[2].splitlines()[0])
    asked = []

    class Gateway(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(status)
            self.end_headers()

    with HTTPServer(("127.0.0.1", 0), Gateway) as gateway, socket.create_server(("127.0.0.1", 0)) as proxy:
        threading.Thread(target=gateway.handle_request).start()
        environment = {
            "GATEWAY_PORT": str(gateway.server_port),
            "http_proxy": f"http://127.0.0.1:{proxy.getsockname()[1]}",
        }
        done = subprocess.run(
            [sys.executable, *check[1:]], env=environment, capture_output=True, check=False, timeout=10
        )
    assert (done.returncode, asked) == (code, ["/health/ready"])


def test_dockerfiles_are_sound() -> None:
    hadolint = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    assert hadolint
    files = sorted(map(str, Path("images").glob("*.Dockerfile")))
    done = subprocess.run([hadolint, "--no-color", *files], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_prometheus_inside_compose_is_the_one_outside_with_other_addresses() -> None:
    outside, inside = (Path(f"observability/{name}.yml").read_text() for name in ("prometheus", "compose"))
    for ours, theirs in (("127.0.0.1:8080", "gateway:8080"), ("127.0.0.1:8002", "triton:8002")):
        outside = outside.replace(ours, theirs)

    def settings(text: str) -> list[str]:
        return [line for line in text.splitlines() if not line.lstrip().startswith("#") and "authorization" not in line]

    assert settings(outside) == settings(inside)
