"""How vectors are written in JSON."""

import base64
from collections.abc import Sequence
from typing import Literal

import numpy as np
import orjson

from gateway import vectors
from gateway.catalog import Model
from gateway.errors import InvalidRequest

EmbeddingType = Literal["float", "base64", "int8", "uint8", "binary", "ubinary"]
"""float and base64 are numbers and little-endian float32 of the same; for the others see `gateway.vectors`."""


def size(model: Model, dimensions: int | None, place: str = "dimensions") -> int:
    """How long vectors are to be.

    Raises:
        InvalidRequest: the model was not trained for that size.
    """
    sizes = sorted({model.width, *model.dimensions})
    if dimensions is not None and dimensions not in sizes:
        raise InvalidRequest(
            f"{place} is {dimensions}; the embeddings of model {model.name!r} can have {', '.join(map(str, sizes))}",
            param=place,
        )
    return dimensions or model.width


def check(kinds: Sequence[EmbeddingType], size: int, place: str = "embedding_type") -> None:
    """Raise InvalidRequest where bits do not fill bytes."""
    if size % 8 and {*kinds} & {"binary", "ubinary"}:
        raise InvalidRequest(f"binary and ubinary need dimensions in eights, not {size}", param=place)


def column(floats: vectors.Floats, kind: EmbeddingType) -> list[bytes]:
    """The JSON of each row, [n, d], of length 1 for all kinds but float and base64."""
    if kind == "base64":
        return [b'"%s"' % base64.b64encode(row) for row in np.ascontiguousarray(floats, "<f4")]
    numbers = floats if kind == "float" else vectors.QUANTISATIONS[kind](floats)
    return [orjson.dumps(row, option=orjson.OPT_SERIALIZE_NUMPY) for row in np.ascontiguousarray(numbers)]
