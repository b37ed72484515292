"""Writes vectors as JSON, in the requested number types."""

from binascii import b2a_base64
from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
import orjson
from msgspec import Meta, Raw

from gateway import vectors
from gateway.catalog import OFFERED_BY, Model, Offer
from gateway.errors import InvalidRequest
from gateway.routes.packing import FLOAT32, Packing

EmbeddingType = Literal["float", "base64", "int8", "uint8", "binary", "ubinary"]
"""float: JSON numbers. base64: the same numbers as bytes, by default little-endian float32. The others are described
in `gateway.vectors`."""
NUMBERS = {"type": "array", "items": {"type": "number"}}
"""The JSON schema of a vector of floats."""
Vector = Annotated[Raw, Meta(extra_json_schema=NUMBERS)]
"""The JSON of a vector of floats, for types of responses."""

RUN = 2**14
"""How many numbers of a list of vectors to join: about 200 KiB of JSON."""


def width(model: Model, kind: Offer = "dense") -> int:
    """The number of dimensions of a model's own vectors."""
    return model.triton_models[0].outputs[OFFERED_BY[kind]].dims[-1]


def size(model: Model, dimensions: int | None, place: str = "dimensions", kind: Offer = "dense") -> int:
    """The number of dimensions of the vectors to send.

    Raises:
        InvalidRequest: the model does not support this number.
    """
    full = width(model, kind)
    if dimensions is None:
        return full
    declared = model.dimensions if full == model.width else ()  # they are of vectors of that width
    sizes = sorted({full, *(size for size in declared if size < full)})
    if dimensions not in sizes:
        raise InvalidRequest(
            f"{place} is {dimensions}; model {model.name!r} supports {', '.join(map(str, sizes))}", param=place
        )
    return dimensions


def check(kinds: Sequence[EmbeddingType], size: int, place: str = "embedding_type") -> None:
    """Raise InvalidRequest if the bits of binary vectors would not fill whole bytes."""
    if size % 8 and {*kinds} & {"binary", "ubinary"}:
        raise InvalidRequest(f"binary and ubinary need a multiple of 8 dimensions, not {size}", param=place)


def column(floats: vectors.Floats, kind: EmbeddingType, packing: Packing = FLOAT32) -> list[Raw]:
    """The JSON of each row of `floats`, [n, d]. The rows must be normalized for all kinds except float and base64.

    `packing` is the form of floats in base64.
    """
    if kind == "base64":
        return [Raw(b'"%s"' % b2a_base64(row, newline=False)) for row in packing.pack(floats)]
    numbers = floats if kind == "float" else vectors.QUANTISATIONS[kind](floats)
    return [Raw(orjson.dumps(row, option=orjson.OPT_SERIALIZE_NUMPY)) for row in np.ascontiguousarray(numbers)]


def matrix(floats: vectors.Floats, kind: EmbeddingType, packing: Packing = FLOAT32) -> list[Raw]:
    """A list of vectors, [n, d]; see `column`. It may have hundreds of megabytes, so each element holds the JSON of
    several vectors, with commas: the whole is never copied, and no memory is lost between small pieces."""
    step = max(1, RUN // floats.shape[1])
    return [
        Raw(b",".join(column(floats[start : start + step], kind, packing))) for start in range(0, len(floats), step)
    ]


def sparse(vector: vectors.Sparse) -> Raw:
    """The JSON of a sparse vector."""
    indices, values = (
        orjson.dumps(part, option=orjson.OPT_SERIALIZE_NUMPY) for part in (vector.indices, vector.weights)
    )
    return Raw(b'{"indices":%s,"values":%s}' % (indices, values))
