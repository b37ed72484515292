import asyncio
import json
import socket

import httpx2
import pytest

from gateway.access.keys import Keys
from gateway.app import create_app
from gateway.drain import Drain
from gateway.errors import InvalidKey
from gateway.middleware import Authenticate
from gateway.settings import Settings
from tests.serving import Server
from tests.waiting import eventually


def log_line(server: Server, request_id: str) -> dict[str, object]:
    lines = eventually(lambda: [line for line in server.lines if request_id in line], f"line about {request_id}")
    fields: dict[str, object] = json.loads(lines[0])
    return fields


@pytest.mark.parametrize("header", [None, "Bearer wrong", "Basic right", "Bearer", "right", "Bearer right,other"])
def test_v1_without_a_valid_key_is_401(locked: httpx2.Client, header: str | None) -> None:
    response = locked.get("/v1/models", headers={"authorization": header} if header else {})
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == "Bearer"
    assert response.json()["error"]["code"] == "invalid_api_key"


@pytest.mark.parametrize("header", ["Bearer right", "bearer other", "Bearer  right", "Bearer clé".encode()])
def test_every_key_is_accepted(locked: httpx2.Client, header: str | bytes) -> None:
    raw = header if isinstance(header, bytes) else header.encode()
    assert locked.get("/v1/models", headers=[(b"authorization", raw)]).status_code == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"api-key": "right"}, 200),
        ({"api-key": "wrong"}, 401),
        ({"api-key": ""}, 401),
        ({"api-key": "right", "authorization": "Bearer wrong"}, 401),
        ({"api-key": "right", "authorization": "Basic x"}, 200),
    ],
)
@pytest.mark.parametrize("path", ["/v1/models", "/openai/v1/models", "/models"])
def test_key_may_come_as_azures_clients_send_it(
    locked: httpx2.Client, path: str, headers: dict[str, str], status: int
) -> None:
    assert locked.get(path, headers=headers).status_code == status


def test_health_and_the_api_document_need_no_key(locked: httpx2.Client) -> None:
    assert locked.get("/health/live").status_code == 200
    assert locked.get("/openapi.json").status_code == 200


def test_metrics_need_a_key_like_the_rest(locked: httpx2.Client) -> None:
    assert locked.get("/metrics").status_code == 401
    assert locked.get("/metrics", headers={"authorization": "Bearer right"}).status_code == 200


def test_unknown_paths_are_401_without_a_key(locked: httpx2.Client) -> None:
    assert locked.get("/v1/nothing").status_code == 401


def test_key_that_is_not_ascii_is_401() -> None:
    async def call() -> None:
        async def app(*_: object) -> None:
            raise AssertionError("let in")

        scope = {"type": "http", "state": {}, "headers": [(b"authorization", b"Bearer \xff\xfe")]}
        with pytest.raises(InvalidKey):
            await Authenticate(app, Keys(["right"], None))(scope, None, None)  # type: ignore[arg-type] # never called

    asyncio.run(call())


def test_request_id_is_returned_and_logged(client: httpx2.Client, server: Server) -> None:
    response = client.post("/v1/embeddings", json={"input": "top secret"}, headers={"x-request-id": "trace-1.a:b"})
    assert response.headers["x-request-id"] == "trace-1.a:b"
    line = log_line(server, "trace-1.a:b")
    assert {line[key] for key in ("method", "path", "status", "model", "inputs", "tokens")} == {
        "POST",
        "/v1/embeddings",
        200,
        "all-minilm-l6-v2",
        1,
        4,
    }
    assert not any("secret" in line for line in server.lines)


@pytest.mark.parametrize("given", ["", "a b", "x" * 129, '"}'])
def test_request_id_that_could_forge_a_log_is_replaced(client: httpx2.Client, given: str) -> None:
    request_id = client.get("/health/live", headers={"x-request-id": given}).headers["x-request-id"]
    assert request_id != given
    assert len(request_id) == 32


def test_error_is_in_the_log_line(client: httpx2.Client, server: Server) -> None:
    client.post("/v1/embeddings", json={"input": []}, headers={"x-request-id": "failing"})
    assert log_line(server, "failing")["error"] == "InvalidRequest"


def test_names_that_clients_send_are_not_logged(client: httpx2.Client, server: Server) -> None:
    for body in ({"input": "a", "model": "mistaken text"}, {"input": "a", "mistaken text": 1}):
        client.post("/v1/embeddings", json=body, headers={"x-request-id": "mistaken"})
    log_line(server, "mistaken")
    assert not any("mistaken text" in line for line in server.lines)


def test_disconnected_client_is_not_a_server_error(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.ports["GATEWAY_PORT"])) as connection:
        head = "POST /v1/embeddings HTTP/1.1\r\nhost: a\r\nx-request-id: gone\r\ncontent-length: 100\r\n\r\n"
        connection.sendall(head.encode() + b'{"input": ')
    line = log_line(server, "gone")
    assert (line["status"], line["level"]) == (499, "info")
    assert "trace" not in line


def test_app_can_be_created_without_triton_or_environment() -> None:
    assert callable(create_app(Settings(), Drain()))
