"""The Triton client: the only module that speaks gRPC, and where Triton's errors end."""

import asyncio
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import aio
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from gateway.discovery import Servers
from gateway.dns import Resolve, resolve
from gateway.errors import DeadlineExceeded, GatewayError, InferenceFailed, NotReady, Overloaded
from gateway.telemetry.spans import NO_SPANS, Spans

log = logging.getLogger(__name__)

MAX_MESSAGE_BYTES = 2**31 - 1
CHANNEL = (
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    # After a restart of Triton be back within a second, not after gRPC's two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # A host that vanishes, or a process that is stopped, is noticed by its silence.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.max_pings_without_data", 0),
    # The texts are for Triton alone, which is near; http_proxy in the environment means the web.
    ("grpc.enable_http_proxy", 0),
)
CONTROL_TIMEOUT_S = 2.0
"""For the small questions about health and models, which never queue."""
SUSPECT_S = 5.0
"""How long a replica is asked last for a model that failed there."""
LOOK_S = 0.5
"""How often to look whether a replica that owes an answer still lives."""


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """What Triton says of one model that is ready."""

    name: str
    max_batch_size: int
    inputs: frozenset[str]
    output: str
    width: int
    """The last dimension of the output."""
    parameters: Mapping[str, str]


class _Replica:
    """One Triton server."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.client = aio.InferenceServerClient(url, channel_args=CHANNEL)
        self.is_live = True
        """As of the last look."""
        self.in_flight = 0
        """Calls."""
        self.failed_at: dict[str, float] = {}
        """When, on the monotonic clock, each model failed that has not answered since."""

    def is_suspect(self, model: str) -> bool:
        """Whether others should be asked first."""
        return time.monotonic() - self.failed_at.get(model, -SUSPECT_S) < SUSPECT_S


class Triton:
    """One Triton server, or several that serve the same. Belongs to the event loop it was made in."""

    def __init__(
        self, urls: Sequence[str], timeout_s: float, spans: Spans = NO_SPANS, resolve: Resolve = resolve
    ) -> None:
        """Make clients; they connect when they are first used.

        Args:
            urls: host:port of the gRPC service of each, or dns:///name:port for all that have the name at the time.
            timeout_s: the longest that an inference may wait in Triton's queue.
            spans: the trace that an inference joins.
            resolve: how names are looked up.
        """
        self.timeout_s = timeout_s
        self._spans = spans
        self.answered_at: dict[str, float] = {}
        """When, on the monotonic clock, each model last answered an inference, with numbers that can be used."""
        self._servers = Servers(urls, resolve)
        self._replicas = [_Replica(url) for url in self._servers.known()]
        self._leaving: list[_Replica] = []
        """Those that a name has lost, as long as calls are under way there."""
        self._turn = 0

    async def close(self) -> None:
        """Close the connections."""
        for replica in self._replicas + self._leaving:
            await replica.client.close()

    async def infer(self, model: str, tensors: Mapping[str, NDArray[np.generic]], output: str) -> NDArray[np.float32]:
        """Run one inference; where a replica fails, another is asked, once.

        Args:
            model: its Triton name.
            tensors: the inputs by name, batch dimension first.
            output: the name of the output.

        Returns:
            The output, FP32.

        Raises:
            GatewayError: Overloaded, NotReady, DeadlineExceeded (in Triton's queue) or InferenceFailed.
        """
        inputs = []
        for name, tensor in tensors.items():
            item = aio.InferInput(name, tensor.shape, np_to_triton_dtype(tensor.dtype))
            item.set_data_from_numpy(tensor)
            inputs.append(item)
        first, *others = self._by_preference(model)
        if not others:
            return await self._infer(first, model, inputs, output)
        try:
            return await self._infer_while_live(first, model, inputs, output)
        except (NotReady, InferenceFailed):
            # Not one of the others of then, which may have left.
            second = next((replica for replica in self._by_preference(model) if replica is not first), first)
            return await self._infer(second, model, inputs, output)

    async def _infer_while_live(
        self, replica: _Replica, model: str, inputs: list[aio.InferInput], output: str
    ) -> NDArray[np.float32]:
        """Wait no longer for a replica that is stopped, or whose host is gone: connections are silent about both."""
        call = asyncio.ensure_future(self._infer(replica, model, inputs, output))
        while not call.done():
            await asyncio.wait({call}, timeout=LOOK_S)
            if not call.done() and not replica.is_live:
                call.add_done_callback(_forget)  # not cancelled: Triton 2.51 can crash when a call is
                raise NotReady("Triton is not responding")
        return call.result()

    def _known(self) -> list[_Replica]:
        """At least one."""
        if not self._replicas:
            raise NotReady("no Triton server is known")
        return self._replicas

    def _by_preference(self, model: str) -> list[_Replica]:
        """The one first that does not fail and has least to do, in turns where they are equal."""
        known = self._known()
        self._turn += 1
        in_turn = [known[(self._turn + i) % len(known)] for i in range(len(known))]
        return sorted(in_turn, key=lambda replica: (not replica.is_live, replica.is_suspect(model), replica.in_flight))

    async def _infer(
        self, replica: _Replica, model: str, inputs: list[aio.InferInput], output: str
    ) -> NDArray[np.float32]:
        # The time it may wait in Triton's queue, where the model's queue policy lets a client say so.
        queue_timeout_us = int(self.timeout_s * 1e6)
        replica.in_flight += 1
        try:
            with mapped_errors(model):
                result = await replica.client.infer(
                    model, inputs, timeout=queue_timeout_us, headers=self._spans.outgoing()
                )
            answer = _read(result, model, output)
        except (NotReady, InferenceFailed):
            replica.failed_at[model] = time.monotonic()
            raise
        finally:
            replica.in_flight -= 1
        replica.failed_at.pop(model, None)
        return answer

    def live(self) -> dict[str, bool]:
        """Of each server, by its host:port, whether it answered at the last look."""
        return {replica.url: replica.is_live for replica in self._replicas}

    async def is_live(self) -> bool:
        """Whether a server answers. It is never "ready" while a model is loaded, though all others work."""
        await self._follow()
        for answer in asyncio.as_completed([self._look(replica) for replica in self._replicas]):
            if await answer:
                return True  # the others go on looking
        return False

    async def _follow(self) -> None:
        """Take the servers that the names stand for now."""
        await self._servers.look()
        before = {replica.url: replica for replica in self._replicas}
        self._replicas = [before.pop(url) if url in before else _Replica(url) for url in self._servers.known()]
        idle = [replica for replica in self._leaving if not replica.in_flight]
        # Those that leave now wait for the next look: a call may be about to begin there.
        self._leaving = [*(replica for replica in self._leaving if replica.in_flight), *before.values()]
        for replica in idle:
            await replica.client.close()

    async def _look(self, replica: _Replica) -> bool:
        try:
            with mapped_errors("server"):
                replica.is_live = bool(await replica.client.is_server_live(client_timeout=CONTROL_TIMEOUT_S))
        except GatewayError:
            replica.is_live = False
        return replica.is_live

    async def models(self) -> list[ModelConfig]:
        """The models that are ready, in no order, by the first server that says so.

        Raises:
            GatewayError: mostly NotReady.
        """
        *others, last = sorted(self._known(), key=lambda replica: not replica.is_live)
        for replica in others:
            with suppress(GatewayError):
                return await _models(replica.client)
        return await _models(last.client)


def _forget(call: "asyncio.Future[NDArray[np.float32]]") -> None:
    """Ask for the error of a call that nobody waits for, or asyncio would complain."""
    if not call.cancelled():
        call.exception()


async def _models(client: aio.InferenceServerClient) -> list[ModelConfig]:
    with mapped_errors("repository"):
        index = await client.get_model_repository_index(client_timeout=CONTROL_TIMEOUT_S)
        names = {model.name for model in index.models if model.state == "READY"}
        replies = await asyncio.gather(
            *(client.get_model_config(name, client_timeout=CONTROL_TIMEOUT_S) for name in names)
        )
    return [
        ModelConfig(
            name=config.name,
            max_batch_size=config.max_batch_size,
            inputs=frozenset(tensor.name for tensor in config.input),
            output=config.output[0].name,
            width=config.output[0].dims[-1],
            parameters={name: value.string_value for name, value in config.parameters.items()},
        )
        for config in (reply.config for reply in replies)
        if config.output and config.output[0].dims
    ]


def _read(result: aio.InferResult, model: str, output: str) -> NDArray[np.float32]:
    try:
        tensor: NDArray[np.float32] | None = result.as_numpy(output)
    except ValueError as exc:  # fewer bytes than the shape asks for
        raise InferenceFailed(f"model {model!r} returned a malformed output {output!r}") from exc
    if tensor is None or tensor.dtype != np.float32:
        raise InferenceFailed(f"model {model!r} returned no FP32 output {output!r}")
    return tensor


# One code, UNAVAILABLE, stands for three things that clients must tell apart. Texts of Triton's scheduler_utils.cc.
MESSAGES: tuple[tuple[str, type[GatewayError], str], ...] = (
    ("Exceeds maximum queue size", Overloaded, "the queue of model {model!r} is full; try again later"),
    ("Request timeout expired", DeadlineExceeded, "model {model!r} was too busy to answer in time"),
)
STATUSES: Mapping[str, tuple[type[GatewayError], str]] = {
    "StatusCode.UNAVAILABLE": (NotReady, "Triton is not reachable"),
    "StatusCode.NOT_FOUND": (NotReady, "model {model!r} is not loaded"),
    "StatusCode.DEADLINE_EXCEEDED": (DeadlineExceeded, "Triton did not answer in time"),
}


@contextmanager
def mapped_errors(model: str) -> Iterator[None]:
    """Turn what the client library raises into the gateway's own errors; Triton's text goes to the log only."""
    try:
        yield
    except InferenceServerException as exc:
        status, text = str(exc.status()), str(exc.message())
        for part, error, message in MESSAGES:
            if part in text:
                raise error(message.format(model=model)) from exc
        error, message = STATUSES.get(status, (InferenceFailed, "model {model!r} failed"))
        if error is InferenceFailed:
            log.warning("model %s failed: %s %s", model, status, text)
        raise error(message.format(model=model)) from exc
