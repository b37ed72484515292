import socket
from pathlib import Path

import httpx2
import pytest

from embedded.triton import Ports, Triton, UnsupportedError, admin_key, check_ports
from tests.serving import ADMIN, Server


def test_ports_come_from_the_environment() -> None:
    assert Ports.from_env({}) == Ports(8000, 8001, 8002)
    assert Ports.from_env({"TRITON_GRPC_PORT": "9001"}) == Ports(8000, 9001, 8002)


@pytest.mark.parametrize("port", ["0", "65536", "grpc", "-1", ""])
def test_invalid_port_is_named(port: str) -> None:
    with pytest.raises(UnsupportedError, match="TRITON_HTTP_PORT="):
        Ports.from_env({"TRITON_HTTP_PORT": port})


def test_port_in_use_is_named_with_its_variable() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(
            UnsupportedError, match=f"port {port} is not available .*; set GATEWAY_PORT to another port"
        ):
            check_ports({"GATEWAY_PORT": port})


def test_equal_ports_are_named_by_their_variables() -> None:
    with pytest.raises(UnsupportedError, match="GATEWAY_PORT and TRITON_HTTP_PORT are both 1"):
        check_ports({"GATEWAY_PORT": 1, "TRITON_HTTP_PORT": 1, "TRITON_GRPC_PORT": 2})


def test_triton_listens_on_loopback_only(repository: Path, tmp_path: Path) -> None:
    triton = Triton.prepare(repository, Ports(), tmp_path)
    assert {option for option in triton.command if "-address=" in option} == {
        "--http-address=127.0.0.1",
        "--grpc-address=127.0.0.1",
        "--metrics-address=127.0.0.1",
    }


def test_paths_on_the_command_line_are_in_the_scratch_folder(tmp_path: Path) -> None:
    # Its path may hold a space, which the python backend does not bear.
    repository = tmp_path / "with a space"
    scratch = tmp_path / "scratch"
    (repository / "model" / "1").mkdir(parents=True)
    scratch.mkdir()
    triton = Triton.prepare(repository, Ports(), scratch)
    assert not any("with a space" in option for option in triton.command)
    assert (scratch / "models").samefile(repository)


def test_repository_without_models_is_named(tmp_path: Path) -> None:
    (tmp_path / "only-a-config").mkdir()
    for repository in (tmp_path, tmp_path / "missing"):
        with pytest.raises(UnsupportedError, match=f"{repository} contains no exported models: run python -m export"):
            Triton.prepare(repository, Ports(), tmp_path)


def test_only_built_models_are_loaded(tmp_path: Path) -> None:
    (tmp_path / "built" / "1").mkdir(parents=True)
    (tmp_path / "only-a-config").mkdir()
    (tmp_path / "scratch").mkdir()
    triton = Triton.prepare(tmp_path, Ports(), tmp_path / "scratch")
    assert [option for option in triton.command if option.startswith("--load-model")] == ["--load-model=built"]


def test_scratch_folder_with_a_space_is_refused(repository: Path, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="contains a space: set TMPDIR"):
        Triton.prepare(repository, Ports(), tmp_path / "with a space")


def test_clean_up_removes_its_own_shared_memory_only(repository: Path, tmp_path: Path) -> None:
    triton = Triton.prepare(repository, Ports(grpc=1), tmp_path)
    own, other = (Path("/dev/shm") / name for name in (f"{triton.shared_memory_prefix}x", "conch-test-other"))  # noqa: S108
    own.touch()
    other.touch()
    triton.clean_up()
    assert not own.exists()
    assert other.exists()
    other.unlink()


def test_entry_of_another_backend_is_named(tmp_path: Path) -> None:
    (tmp_path / "model" / "1").mkdir(parents=True)
    (tmp_path / "model" / "config.pbtxt").write_text('name: "model"\nbackend: "onnxruntime"\n')
    with pytest.raises(UnsupportedError, match=f"{tmp_path}/model needs Triton's onnxruntime backend"):
        Triton.prepare(tmp_path, Ports(), tmp_path)


def test_triton_refuses_requests_without_the_admin_header(server: Server) -> None:
    url = f"http://127.0.0.1:{server.ports['TRITON_HTTP_PORT']}/v2"
    page = {"origin": "https://evil.example", "content-type": "text/plain"}
    for path in ("repository/models/all-minilm-l6-v2/load", "repository/index", "models/all-minilm-l6-v2/infer"):
        assert httpx2.post(f"{url}/{path}", content=b"{}", headers=page).status_code == 403
    assert httpx2.get(f"{url}/models/all-minilm-l6-v2/config").status_code == 403
    assert httpx2.get(f"{url}/health/ready").status_code == 200
    assert httpx2.post(f"{url}/repository/index", content=b"{}", headers=ADMIN).status_code == 200


def test_admin_key_is_random_unless_set() -> None:
    assert admin_key({}) != admin_key({})
    assert admin_key({"TRITON_ADMIN_KEY": "given"}) == "given"
