import asyncio
import socket
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from grpc import StatusCode
from grpc.aio import AioRpcError, Metadata
from numpy.typing import NDArray

from gateway.errors import DeadlineExceeded, GatewayError, InferenceFailed, NotReady, Overloaded
from gateway.triton import Output, Triton, mapped_errors
from loadtest.tools.servers import free_ports
from tests.serving import Server


@pytest.mark.parametrize(
    ("status", "message", "error"),
    [
        ("UNAVAILABLE", "[request id: 1] Exceeds maximum queue size", Overloaded),
        ("UNAVAILABLE", "Request timeout expired", DeadlineExceeded),
        ("UNAVAILABLE", "Server is stopping, no new requests", NotReady),
        ("UNAVAILABLE", "failed to connect to all addresses", NotReady),
        ("NOT_FOUND", "Request for unknown model: 'm' is not found", NotReady),
        ("DEADLINE_EXCEEDED", "Deadline Exceeded", DeadlineExceeded),
        ("INVALID_ARGUMENT", "unexpected shape", InferenceFailed),
        ("INTERNAL", "Failed to process the request", InferenceFailed),
    ],
)
def test_errors_of_one_code_are_distinguished_by_message(status: str, message: str, error: type[GatewayError]) -> None:
    with pytest.raises(error) as caught, mapped_errors("m"):
        raise AioRpcError(StatusCode[status], Metadata(), Metadata(), message)
    assert caught.value.__cause__ is not None
    assert message not in caught.value.message


@pytest.mark.parametrize("code", StatusCode)
def test_every_grpc_code_becomes_a_gateway_error(code: StatusCode) -> None:
    with pytest.raises(GatewayError), mapped_errors("m"):
        raise AioRpcError(code, Metadata(), Metadata())


EMBEDDING = Output("embedding", "FP32", (384,))


def row(length: int) -> dict[str, NDArray[np.generic]]:
    return {"input_ids": np.array([[101, 102]], np.int64), "length": np.array([[length]], np.int32)}


def test_malformed_tensors_fail_only_their_own_request(server: Server) -> None:
    async def use() -> None:
        triton = Triton([server.triton_url], timeout_s=10)
        good, bad = row(length=2), row(length=0)
        answers = await asyncio.gather(
            *(triton.infer("all-minilm-l6-v2", tensors, [EMBEDDING]) for tensors in [good, bad] * 8),
            return_exceptions=True,
        )
        await triton.close()
        assert all(isinstance(answer, InferenceFailed) for answer in answers[1::2])
        right = [answer[0] for answer in answers[::2] if not isinstance(answer, BaseException)]
        assert len(right) == 8
        assert all(np.array_equal(answer, right[0]) for answer in right)

    asyncio.run(use())


def test_answer_of_another_shape_is_refused(server: Server) -> None:
    async def use() -> None:
        triton = Triton([server.triton_url], timeout_s=10)
        with pytest.raises(InferenceFailed, match=r"returned 'embedding' of shape \(1, 384\), expected \(1, 385\)$"):
            await triton.infer("all-minilm-l6-v2", row(length=2), [replace(EMBEDDING, dims=(385,))])
        (vectors,) = await triton.infer("all-minilm-l6-v2", row(length=2), [EMBEDDING])
        assert vectors.shape == (1, 384)
        await triton.close()

    asyncio.run(use())


def test_missing_server_is_not_ready() -> None:
    async def use() -> None:
        triton = Triton([f"127.0.0.1:{free_ports(1)[0]}"], timeout_s=5)
        assert not await triton.is_live()
        with pytest.raises(NotReady):
            await triton.models()
        await triton.close()

    asyncio.run(use())


@pytest.mark.parametrize("variable", ["grpc_proxy", "https_proxy", "http_proxy"])
def test_proxy_variables_are_ignored_for_triton(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def use() -> None:
        triton = Triton([f"127.0.0.1:{free_ports(1)[0]}"], timeout_s=5)
        assert not await triton.is_live()
        await triton.close()

    for name in ("no_grpc_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        proxy.setblocking(False)
        monkeypatch.setenv(variable, f"http://127.0.0.1:{proxy.getsockname()[1]}")
        asyncio.run(use())
        with pytest.raises(BlockingIOError):
            proxy.accept()


def test_failed_call_is_retried_on_another_replica(server: Server) -> None:
    async def use() -> None:
        triton = Triton([f"127.0.0.1:{free_ports(1)[0]}", server.triton_url], timeout_s=10)
        assert await triton.is_live()
        assert await triton.models()
        answers = await asyncio.gather(
            *(triton.infer("all-minilm-l6-v2", row(length=2), [EMBEDDING]) for _ in range(8))
        )
        await triton.close()
        assert all(np.array_equal(answer, answers[0][0]) for (answer,) in answers)

    asyncio.run(use())


def test_servers_follow_the_addresses_of_a_name(server: Server) -> None:
    host, _, port = server.triton_url.partition(":")
    addresses: list[str] = []

    async def resolve(*_: object) -> Sequence[str]:
        return list(addresses)

    async def use() -> None:
        triton = Triton([f"dns:///triton.example:{port}"], timeout_s=10, resolve=resolve)
        assert not await triton.is_live()
        with pytest.raises(NotReady):
            await triton.models()
        with pytest.raises(NotReady):
            await triton.infer("all-minilm-l6-v2", row(length=2), [EMBEDDING])
        addresses[:] = [host]
        assert await triton.is_live()
        assert await triton.models()
        calls = [asyncio.create_task(triton.infer("all-minilm-l6-v2", row(length=2), [EMBEDDING])) for _ in range(8)]
        await asyncio.sleep(0)  # they are under way
        addresses[:] = ["127.0.0.2"]
        assert not await triton.is_live()
        assert triton.live() == {f"127.0.0.2:{port}": False}
        assert len(await asyncio.gather(*calls)) == 8  # what was under way at the one that left is answered
        await triton.close()

    asyncio.run(use())
