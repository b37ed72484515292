"""Rows of token ids to outputs: cuts a call into requests that Triton can batch, and puts the answers in order."""

import asyncio
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from gateway.catalog import Model
from gateway.errors import InferenceFailed
from gateway.triton import Triton

Row = tuple[Sequence[int], ...]
"""Token ids of each segment of a row: query and document for late interaction, one for all else."""

SEGMENTS: Mapping[str, tuple[tuple[str, str], ...]] = {
    "text-embedding": (("input_ids", "length"),),
    "cross-encoder": (("input_ids", "length"),),
    "late-interaction": (("query_ids", "query_length"), ("document_ids", "document_length")),
}
"""By role, the names of the tensors that hold each segment: ids INT64 [b, L], padded, and lengths INT32 [b, 1]. The
other side of the contract is in export/runtime/engine.py; the two share no code, only these names."""

MAX_ROWS = 2048
"""Texts or documents in one call."""
PARTS_IN_FLIGHT = 8
"""Requests that one call may have at Triton at a time: enough to keep it busy, few enough that a call of thousands of
rows does not fill the queue in front of everybody else's."""


async def run(triton: Triton, model: Model, rows: Sequence[Row], first_length: int = 1) -> NDArray[np.float32]:
    """Compute every row: [n, model.width], in the order given.

    Rows of similar length travel together, so that little is padded.

    Args:
        triton: where the model runs.
        model: of any role.
        rows: each of 1 to model.max_tokens ids in every segment.
        first_length: for models that take it, how many ids of each row have the segment id 0.

    Raises:
        GatewayError: of the first request that failed; those not sent by then are not.
    """
    results = np.empty((len(rows), model.width), np.float32)
    order = sorted(range(len(rows)), key=lambda i: sum(map(len, rows[i])))
    slots = asyncio.Semaphore(PARTS_IN_FLIGHT)

    async def run_part(part: list[int]) -> None:
        async with slots:
            tensors = _tensors(model, [rows[i] for i in part])
            if model.takes_first_length:
                tensors["first_length"] = np.full((len(part), 1), first_length, np.int32)
            answer = await triton.infer(model.triton_name, tensors, model.output)
            results[part] = _checked(answer, (len(part), model.width))

    parts = [order[start : start + model.max_batch_size] for start in range(0, len(order), model.max_batch_size)]
    tasks = [asyncio.create_task(run_part(part)) for part in parts]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:  # after a failure, those that wait for a slot
            task.cancel()
    return results


def _tensors(model: Model, rows: Sequence[Row]) -> dict[str, NDArray[np.generic]]:
    tensors: dict[str, NDArray[np.generic]] = {}
    for (ids_name, length_name), segment in zip(SEGMENTS[model.role], zip(*rows, strict=True), strict=True):
        lengths = np.fromiter(map(len, segment), np.int32, len(segment))
        longest = int(lengths.max())
        width = next((bucket for bucket in model.length_buckets if bucket >= longest), longest)
        ids = np.zeros((len(segment), width), np.int64)
        for row, (values, length) in enumerate(zip(segment, lengths.tolist(), strict=True)):
            ids[row, :length] = values
        tensors[ids_name] = ids
        tensors[length_name] = lengths[:, None]
    return tensors


def _checked(results: NDArray[np.float32], shape: tuple[int, int]) -> NDArray[np.float32]:
    if results.shape != shape:
        raise InferenceFailed(f"the model answered with shape {results.shape} where {shape} was due")
    if not np.isfinite(results).all():
        raise InferenceFailed("the model answered with numbers that are not finite")
    return results
