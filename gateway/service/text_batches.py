"""Rows of token ids to outputs."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gateway.catalog import TextModel
from gateway.contract import SEGMENTS
from gateway.service import batches
from gateway.service.caller import Caller

Row = tuple[Sequence[int], ...]
"""Token ids of each segment of a row: query and document for late interaction, one for all else."""

PART_TOKENS = 2048
"""In one request to Triton, unless one row alone has more. What waits for its turn does so behind whole requests."""
MAX_ROWS = 2048
"""Texts, images or documents in one call."""


async def run(
    caller: Caller, model: TextModel, rows: Sequence[Row], prefixes: Sequence[int] = ()
) -> NDArray[np.float32]:
    """Compute every row: [n, model.width], in the order given.

    Rows of similar length travel together, so that little is padded.

    Args:
        caller: on whose behalf.
        model: of any role.
        rows: each of 1 to model.max_tokens ids in every segment.
        prefixes: for models that have `model.prefix`, how many ids of each row it counts; one if left out.

    Raises:
        GatewayError: what `batches.run` does.
    """

    async def tensors(part: Sequence[int]) -> batches.Tensors:
        made = _tensors(model, [rows[i] for i in part])
        if model.prefix:
            made[model.prefix] = np.array([[prefixes[i] if prefixes else 1] for i in part], np.int32)
        return made

    return await batches.run(caller, model, _cut([sum(map(len, row)) for row in rows], model.max_batch_size), tensors)


def _cut(tokens: Sequence[int], most_rows: int) -> list[batches.Part]:
    """Parts of rows of similar length, given the tokens of each row."""
    cut: list[batches.Part] = []
    part: list[int] = []
    total = 0
    for row in sorted(range(len(tokens)), key=tokens.__getitem__):
        if part and (len(part) == most_rows or total + tokens[row] > PART_TOKENS):
            cut.append(batches.Part(part, total))
            part, total = [], 0
        part.append(row)
        total += tokens[row]
    return [*cut, batches.Part(part, total)] if part else cut


def _tensors(model: TextModel, rows: Sequence[Row]) -> dict[str, NDArray[np.generic]]:
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
