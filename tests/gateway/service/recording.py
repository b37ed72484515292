"""A Triton client without a server. It records what is sent to it."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from gateway.errors import NotReady
from gateway.scheduling.admission import Queues
from gateway.scheduling.threads import Threads
from gateway.service.caller import Caller
from gateway.service.shared_calls import SharedCalls
from gateway.triton import OUTPUT_DTYPES, Output, Triton

EMBEDDING = Output("embedding", "FP32", (1,))
"""What it answers, unless it is asked for more."""


@dataclass
class RecordingTriton(Triton):
    """Answers each row with its first value, or with all of them where the output is of any length; fails from call
    `fail_at` on."""

    fail_at: int | None = None
    servers: int = 1
    calls: list[Mapping[str, NDArray[np.generic]]] = field(default_factory=list)
    now: int = 0
    most_at_a_time: int = 0
    answered_at: dict[str, float] = field(default_factory=dict)

    def live(self) -> dict[str, bool]:
        return {str(server): True for server in range(self.servers)}

    async def infer(
        self, model: str, tensors: Mapping[str, NDArray[np.generic]], outputs: Sequence[Output]
    ) -> list[NDArray[np.generic]]:
        if self.fail_at is not None and len(self.calls) >= self.fail_at:
            raise NotReady(f"{model} returned no {outputs[0].name}")
        self.calls.append(tensors)
        self.now += 1
        self.most_at_a_time = max(self.now, self.most_at_a_time)
        await asyncio.sleep(0)
        self.now -= 1
        given = next(iter(tensors.values()))
        values = given.reshape(len(given), -1)
        shapes = [(len(given), *output.dims) for output in outputs]
        return [
            values[:, : 1 if -1 not in shape else None].reshape(shape).astype(OUTPUT_DTYPES[output.datatype])
            for output, shape in zip(outputs, shapes, strict=True)
        ]


def caller(triton: Triton) -> Caller:
    """A caller without competitors."""
    return Caller(SharedCalls(triton), Queues(timeout_s=30), Threads(2, spare=2))
