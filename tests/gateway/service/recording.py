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
from gateway.triton import Output, Triton

EMBEDDING = Output("embedding", "FP32", (1,))
"""What it answers."""


@dataclass
class RecordingTriton(Triton):
    """Answers each row with its first value; fails from call `fail_at` on."""

    fail_at: int | None = None
    calls: list[Mapping[str, NDArray[np.generic]]] = field(default_factory=list)
    now: int = 0
    most_at_a_time: int = 0

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
        first: NDArray[np.float32] = given.reshape(len(given), -1)[:, :1].astype(np.float32)
        assert [*outputs] == [EMBEDDING]
        return [first]


def caller(triton: Triton) -> Caller:
    """A caller without competitors."""
    return Caller(triton, Queues(timeout_s=30), Threads(2, spare=2))
