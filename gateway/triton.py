"""The Triton client: the only module that speaks gRPC, and where Triton's errors end."""

import asyncio
import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import aio
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from gateway.errors import DeadlineExceeded, GatewayError, InferenceFailed, NotReady, Overloaded

log = logging.getLogger(__name__)

MAX_MESSAGE_BYTES = 2**31 - 1
CHANNEL = (
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    # After a restart of Triton be back within a second, not after gRPC's two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
)
CONTROL_TIMEOUT_S = 5.0
"""For the small questions about health and models, which never queue."""


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


class Triton:
    """One Triton server. Belongs to the event loop it was made in."""

    def __init__(self, url: str, timeout_s: float) -> None:
        """Make a client; it connects when it is first used.

        Args:
            url: host:port of the gRPC service.
            timeout_s: the longest that an inference may wait in Triton's queue.
        """
        self.timeout_s = timeout_s
        self.answered_at: dict[str, float] = {}
        """When, on the monotonic clock, each model last answered an inference."""
        self._client = aio.InferenceServerClient(url, channel_args=CHANNEL)

    async def close(self) -> None:
        """Close the connection."""
        await self._client.close()

    async def infer(self, model: str, tensors: Mapping[str, NDArray[np.generic]], output: str) -> NDArray[np.float32]:
        """Run one inference.

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
        call = asyncio.ensure_future(self._infer(model, inputs))
        call.add_done_callback(_forget)
        # Whoever gives up waiting does not cancel it: Triton 2.51 can crash when a call is (server issue 7368).
        answer = _read(await asyncio.shield(call), output)
        if answer is None or answer.dtype != np.float32:
            raise InferenceFailed(f"model {model!r} gave no FP32 output {output!r}")
        return answer

    async def _infer(self, model: str, inputs: list[aio.InferInput]) -> aio.InferResult:
        # The time it may wait in Triton's queue, where the model's queue policy lets a client say so.
        queue_timeout_us = int(self.timeout_s * 1e6)
        with mapped_errors(model):
            result = await self._client.infer(model, inputs, timeout=queue_timeout_us)
        self.answered_at[model] = time.monotonic()
        return result

    async def is_ready(self) -> bool:
        """Whether the server answers and says that all its models are loaded."""
        try:
            with mapped_errors("server"):
                return bool(await self._client.is_server_ready(client_timeout=CONTROL_TIMEOUT_S))
        except GatewayError:
            return False

    async def models(self) -> list[ModelConfig]:
        """The models that are ready, in no order.

        Raises:
            GatewayError: mostly NotReady.
        """
        with mapped_errors("repository"):
            index = await self._client.get_model_repository_index(client_timeout=CONTROL_TIMEOUT_S)
            names = {model.name for model in index.models if model.state == "READY"}
            replies = await asyncio.gather(
                *(self._client.get_model_config(name, client_timeout=CONTROL_TIMEOUT_S) for name in names)
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


def _read(result: aio.InferResult, output: str) -> NDArray[np.float32] | None:
    try:
        tensor: NDArray[np.float32] | None = result.as_numpy(output)
    except ValueError as exc:  # fewer bytes than the shape asks for
        raise InferenceFailed(f"output {output!r} is broken") from exc
    return tensor


def _forget(call: "asyncio.Future[aio.InferResult]") -> None:
    """Take note of how a call ended that may have been abandoned, or asyncio complains that nobody did."""
    if not call.cancelled():
        call.exception()


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
