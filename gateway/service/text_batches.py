"""Runs text models on rows of token ids."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gateway.catalog import TextModel
from gateway.contract import SEGMENTS
from gateway.service import batches
from gateway.service.batches import Batch
from gateway.service.caller import Caller

Row = tuple[Sequence[int], ...]
"""Token ids of each segment: query and document for late interaction, one segment for all other roles."""

MAX_PADDING = 4
"""Maximum size of a batch with padding, as a multiple of its maximum tokens: a long row could pad a thousand others."""
MAX_ROWS = 2048
"""Maximum number of texts, images or documents in one call."""


async def infer_texts(
    caller: Caller, model: TextModel, rows: Sequence[Row], prefixes: Sequence[int] = ()
) -> NDArray[np.float32]:
    """Compute all rows: FP32 [n, model.width], in the order given. Batches hold rows of similar length.

    Args:
        caller: the request to work for.
        model: a text model of any role.
        rows: each with 1 to model.max_tokens ids in every segment.
        prefixes: the value of the input `model.prefix` for each row, if the model has one; 1 for each by default.

    Raises:
        GatewayError: what `batches.infer` raises.
    """

    async def tensors(indices: Sequence[int]) -> batches.Tensors:
        inputs = _tensors(model, [rows[i] for i in indices])
        if model.prefix:
            inputs[model.prefix] = np.array([[prefixes[i] if prefixes else 1] for i in indices], np.int32)
        return inputs

    lengths = [sum(map(len, row)) for row in rows]
    max_tokens = caller.queues.get(model.triton_name).batch_tokens(model.batch_tokens)
    return await batches.infer(caller, model, _split(lengths, model.max_batch_size, max_tokens), tensors)


def _split(lengths: Sequence[int], max_rows: int, max_tokens: int) -> list[Batch]:
    """Batches of rows of similar length, given the tokens of each row."""
    split: list[Batch] = []
    batch: list[int] = []
    total = 0
    for row in sorted(range(len(lengths)), key=lengths.__getitem__):
        padded = (len(batch) + 1) * lengths[row]  # it is the longest so far
        is_over = total + lengths[row] > max_tokens or padded > MAX_PADDING * max_tokens
        if batch and (len(batch) == max_rows or is_over):
            split.append(Batch(batch, total))
            batch, total = [], 0
        batch.append(row)
        total += lengths[row]
    return [*split, Batch(batch, total)] if batch else split


def _tensors(model: TextModel, rows: Sequence[Row]) -> dict[str, NDArray[np.generic]]:
    """The inputs in SEGMENTS, padded to the longest row or to a length bucket of the model."""
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
