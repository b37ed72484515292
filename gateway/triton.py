"""The Triton client. Only this module uses gRPC, and it maps all of Triton's errors to the gateway's own."""

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import numpy as np
from grpc import StatusCode
from grpc.aio import AioRpcError, insecure_channel
from numpy.typing import NDArray
from tritonclient.grpc import model_config_pb2
from tritonclient.grpc.service_pb2 import (
    ModelConfigRequest,
    ModelInferRequest,
    ModelInferResponse,
    RepositoryIndexRequest,
    ServerLiveRequest,
)
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub

from gateway.discovery import Servers
from gateway.dns import Resolve, resolve
from gateway.errors import DeadlineExceeded, GatewayError, InferenceFailed, NotReady, Overloaded
from gateway.telemetry.spans import NO_SPANS, Spans

log = logging.getLogger(__name__)

MAX_MESSAGE_BYTES = 2**31 - 1
CHANNEL = (
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    # Reconnect within a second after Triton restarts; gRPC's default is up to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # Detect a lost host or a stopped process, which never close the connection.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.max_pings_without_data", 0),
    # http_proxy is meant for the web, not for Triton, which is near.
    ("grpc.enable_http_proxy", 0),
)
DATATYPES: Mapping[np.dtype[np.generic], str] = {
    np.dtype(np.int64): "INT64",
    np.dtype(np.int32): "INT32",
    np.dtype(np.uint8): "UINT8",
}
"""Triton's names of the types of inputs."""
OUTPUT_DTYPES: Mapping[str, np.dtype[np.generic]] = {"FP32": np.dtype("<f4"), "INT32": np.dtype("<i4")}
"""Types of outputs, by Triton's names."""
CONTROL_TIMEOUT_S = 2.0
"""Timeout of health and model queries, which Triton does not queue."""
SUSPECT_S = 5.0
"""After a failure, a replica is the last choice for that model for this long."""
POLL_S = 0.5
"""Interval at which to check that a replica with a pending call is still alive."""


@dataclass(frozen=True, slots=True)
class Output:
    """An output of a model."""

    name: str
    datatype: str
    """Triton's name of its type, such as FP32."""
    dims: tuple[int, ...]
    """Its shape without the batch dimension; -1 for any size."""


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Triton's config of a model that is ready."""

    name: str
    max_batch_size: int
    inputs: frozenset[str]
    outputs: tuple[Output, ...]
    """In the order of the config."""
    parameters: Mapping[str, str]
    versions: frozenset[str] = frozenset()
    """Those that are ready."""


class _Replica:
    """One Triton server."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.channel = insecure_channel(url, CHANNEL)
        self.api = GRPCInferenceServiceStub(self.channel)
        self.is_live = True
        """As of the last health check."""
        self.in_flight = 0
        """Number of pending calls."""
        self.failed_at: dict[str, float] = {}
        """Monotonic time of the last failure of each model that has not answered since."""

    def is_suspect(self, model: str) -> bool:
        """Whether the model failed here recently."""
        return time.monotonic() - self.failed_at.get(model, -SUSPECT_S) < SUSPECT_S


class Triton:
    """One or more Triton servers with the same models. Use it in the event loop that created it."""

    def __init__(
        self, urls: Sequence[str], timeout_s: float, spans: Spans = NO_SPANS, resolve: Resolve = resolve
    ) -> None:
        """Create the clients, which connect on first use.

        Args:
            urls: host:port of each gRPC service, or dns:///name:port for all current addresses of a name.
            timeout_s: maximum time that an inference may wait in Triton's queue.
            spans: adds inferences to the trace of their request.
            resolve: looks up host names.
        """
        self.timeout_s = timeout_s
        self._spans = spans
        self.answered_at: dict[str, float] = {}
        """Monotonic time of each model's last valid answer to an inference, set by who checks its values."""
        self._servers = Servers(urls, resolve)
        self._replicas = [_Replica(url) for url in self._servers.known()]
        self._leaving: list[_Replica] = []
        """Replicas whose address is gone, until their pending calls end."""
        self._turn = 0

    async def close(self) -> None:
        """Close all connections."""
        for replica in self._replicas + self._leaving:
            await replica.channel.close()

    async def infer(
        self, model: str, tensors: Mapping[str, NDArray[np.generic]], outputs: Sequence[Output]
    ) -> list[NDArray[np.generic]]:
        """Run one inference. If a replica fails, retry once on another.

        Args:
            model: Triton name of the model.
            tensors: inputs by name, batch dimension first.
            outputs: the outputs to compute. Triton sends no others.

        Returns:
            The outputs in order, batch dimension first. Their values may not be finite.

        Raises:
            GatewayError: Overloaded, NotReady, DeadlineExceeded (in Triton's queue), or InferenceFailed (also for an
                output of another type or shape).
        """
        answer = await self._infer_on_any(model, tensors, outputs)
        rows = len(next(iter(tensors.values())))
        for output, values in zip(outputs, answer, strict=True):
            if not _fits(values.shape, (rows, *output.dims)):
                expected = ", ".join("any" if size < 0 else str(size) for size in (rows, *output.dims))
                raise InferenceFailed(
                    f"model {model!r} returned {output.name!r} of shape {values.shape}, expected ({expected})"
                )
        return answer

    async def _infer_on_any(
        self, model: str, tensors: Mapping[str, NDArray[np.generic]], outputs: Sequence[Output]
    ) -> list[NDArray[np.generic]]:
        request = ModelInferRequest(model_name=model)
        for output in outputs:
            request.outputs.add(name=output.name)
        # Triton applies this to the time in its queue, if the model's queue policy allows it.
        request.parameters["timeout"].int64_param = int(self.timeout_s * 1e6)
        for name, tensor in tensors.items():
            request.inputs.add(name=name, datatype=DATATYPES[tensor.dtype], shape=tensor.shape)
            request.raw_input_contents.append(tensor.tobytes())
        first, *others = self._by_preference(model)
        if not others:
            return await self._infer(first, request, outputs)
        try:
            return await self._infer_while_live(first, request, outputs)
        except (NotReady, InferenceFailed):
            # Choose again: the other replicas may have changed.
            second = next((replica for replica in self._by_preference(model) if replica is not first), first)
            return await self._infer(second, request, outputs)

    async def _infer_while_live(
        self, replica: _Replica, request: ModelInferRequest, outputs: Sequence[Output]
    ) -> list[NDArray[np.generic]]:
        """Stop waiting if health checks fail: a connection to a stopped process or lost host stays open."""
        call = asyncio.ensure_future(self._infer(replica, request, outputs))
        while not call.done():
            await asyncio.wait({call}, timeout=POLL_S)
            if not call.done() and not replica.is_live:
                call.add_done_callback(_retrieve)  # do not cancel it: Triton 2.51 can crash
                raise NotReady("Triton is not responding")
        try:
            return call.result()
        finally:
            del call  # or its error refers to itself, and the request stays until the next garbage collection

    def _known(self) -> list[_Replica]:
        """All replicas. Raises NotReady if there are none."""
        if not self._replicas:
            raise NotReady("no Triton server is known")
        return self._replicas

    def _by_preference(self, model: str) -> list[_Replica]:
        """All replicas, best first: live, without a recent failure, with the fewest calls; round-robin among equals."""
        known = self._known()
        self._turn += 1
        in_turn = [known[(self._turn + i) % len(known)] for i in range(len(known))]
        return sorted(in_turn, key=lambda replica: (not replica.is_live, replica.is_suspect(model), replica.in_flight))

    async def _infer(
        self, replica: _Replica, request: ModelInferRequest, outputs: Sequence[Output]
    ) -> list[NDArray[np.generic]]:
        model: str = request.model_name
        headers = self._spans.outgoing() or {}
        replica.in_flight += 1
        try:
            with mapped_errors(model):
                response = await replica.api.ModelInfer(request, metadata=tuple(headers.items()))
            answer = [_read(response, model, output) for output in outputs]
        except (NotReady, InferenceFailed):
            replica.failed_at[model] = time.monotonic()
            raise
        finally:
            replica.in_flight -= 1
        replica.failed_at.pop(model, None)
        return answer

    def live(self) -> dict[str, bool]:
        """Whether each server, by host:port, answered the last health check."""
        return {replica.url: replica.is_live for replica in self._replicas}

    async def is_live(self) -> bool:
        """Check all servers; return whether any is live. "Ready" is no use: it is false while any model is loading."""
        await self._discover()
        for answer in asyncio.as_completed([self._check(replica) for replica in self._replicas]):
            if await answer:
                return True  # the other checks continue
        return False

    async def _discover(self) -> None:
        """Update the replicas to the current addresses."""
        await self._servers.refresh()
        before = {replica.url: replica for replica in self._replicas}
        self._replicas = [before.pop(url) if url in before else _Replica(url) for url in self._servers.known()]
        idle = [replica for replica in self._leaving if not replica.in_flight]
        # Close replicas at the next check at the earliest: a call may be about to start there.
        self._leaving = [*(replica for replica in self._leaving if replica.in_flight), *before.values()]
        for replica in idle:
            await replica.channel.close()

    async def _check(self, replica: _Replica) -> bool:
        try:
            with mapped_errors("server"):
                replica.is_live = (await replica.api.ServerLive(ServerLiveRequest(), timeout=CONTROL_TIMEOUT_S)).live
        except GatewayError:
            replica.is_live = False
        return replica.is_live

    async def models(self) -> list[ModelConfig]:
        """The models that are ready, in no particular order, from the first server that answers.

        Raises:
            GatewayError: mostly NotReady.
        """
        *others, last = sorted(self._known(), key=lambda replica: not replica.is_live)
        for replica in others:
            with suppress(GatewayError):
                return await _models(replica.api)
        return await _models(last.api)

    async def differing(self, models: Sequence[ModelConfig]) -> set[str]:
        """The names of those of these models that some live server has with another config or in other versions; of all
        of them, if a live server does not tell what it has."""
        live = [replica for replica in self._replicas if replica.is_live]
        if len(live) < 2:
            return set()
        answers = await asyncio.gather(*(_models(replica.api) for replica in live), return_exceptions=True)
        differing: set[str] = set()
        for answer in answers:
            if isinstance(answer, BaseException):
                return {model.name for model in models}
            theirs = {model.name: model for model in answer}
            differing |= {model.name for model in models if theirs.get(model.name, model) != model}
        return differing


def _retrieve(call: "asyncio.Future[list[NDArray[np.generic]]]") -> None:
    """Read the exception of an abandoned call, which asyncio would log otherwise."""
    if not call.cancelled():
        call.exception()


async def _models(api: GRPCInferenceServiceStub) -> list[ModelConfig]:
    with mapped_errors("repository"):
        index = await api.RepositoryIndex(RepositoryIndexRequest(), timeout=CONTROL_TIMEOUT_S)
        versions: dict[str, set[str]] = defaultdict(set)
        for model in index.models:
            if model.state == "READY":
                versions[model.name].add(model.version)
        replies = await asyncio.gather(
            *(api.ModelConfig(ModelConfigRequest(name=name), timeout=CONTROL_TIMEOUT_S) for name in versions)
        )
    return [
        ModelConfig(
            name=config.name,
            max_batch_size=config.max_batch_size,
            inputs=frozenset(tensor.name for tensor in config.input),
            outputs=tuple(
                Output(tensor.name, model_config_pb2.DataType.Name(tensor.data_type)[len("TYPE_") :], (*tensor.dims,))
                for tensor in config.output
            ),
            parameters={name: value.string_value for name, value in config.parameters.items()},
            versions=frozenset(versions[config.name]),
        )
        for config in (reply.config for reply in replies)
    ]


def _read(response: ModelInferResponse, model: str, output: Output) -> NDArray[np.generic]:
    for tensor, content in zip(response.outputs, response.raw_output_contents, strict=False):
        if (tensor.name, tensor.datatype) == (output.name, output.datatype):
            try:
                return np.frombuffer(content, OUTPUT_DTYPES[output.datatype]).reshape(tuple(tensor.shape))
            except ValueError as exc:  # fewer bytes than the shape needs
                raise InferenceFailed(f"model {model!r} returned a malformed output {output.name!r}") from exc
    raise InferenceFailed(f"model {model!r} returned no {output.datatype} output {output.name!r}")


def _fits(shape: tuple[int, ...], expected: tuple[int, ...]) -> bool:
    return shape == expected or (
        len(shape) == len(expected) and all(want in {-1, size} for size, want in zip(shape, expected, strict=True))
    )


# UNAVAILABLE has three causes that clients must tell apart. The texts are those of Triton's scheduler_utils.cc.
MESSAGES: tuple[tuple[str, type[GatewayError], str], ...] = (
    ("Exceeds maximum queue size", Overloaded, "the queue of model {model!r} is full; try again later"),
    ("Request timeout expired", DeadlineExceeded, "model {model!r} was too busy to answer in time"),
)
STATUSES: Mapping[StatusCode, tuple[type[GatewayError], str]] = {
    StatusCode.UNAVAILABLE: (NotReady, "Triton is not reachable"),
    StatusCode.NOT_FOUND: (NotReady, "model {model!r} is not loaded"),
    StatusCode.DEADLINE_EXCEEDED: (DeadlineExceeded, "Triton did not answer in time"),
}


@contextmanager
def mapped_errors(model: str) -> Iterator[None]:
    """Map gRPC's errors to the gateway's own. Triton's text is only logged."""
    try:
        yield
    except AioRpcError as exc:
        status, text = exc.code(), exc.details() or ""
        for part, error, message in MESSAGES:
            if part in text:
                raise error(message.format(model=model)) from exc
        error, message = STATUSES.get(status, (InferenceFailed, "model {model!r} failed"))
        if error is InferenceFailed:
            log.warning("model %s failed: %s %s", model, status, text)
        raise error(message.format(model=model)) from exc
