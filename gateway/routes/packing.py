"""Floats as bytes, as in vLLM's API: in base64, or as a whole response."""

import json
from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray
from starlette.responses import Response

from gateway import vectors
from gateway.errors import InvalidRequest
from gateway.routes.http import Request, large_bytes_response

EncodingFormat = Literal["float", "base64", "bytes", "bytes_only"]
"""How to write floats: as numbers, as base64, or as a response of bytes with or without METADATA."""
FloatType = Literal["float32", "float16", "bfloat16"]
Endianness = Literal["native", "little", "big"]
TYPES = {"float32": "f4", "float16": "f2", "bfloat16": "u2"}
"""numpy's names. It has no bfloat16, so `vectors.bfloat16` returns the bits."""
ORDERS = {"native": "<", "little": "<", "big": ">"}
METADATA = "metadata"
"""The response header that describes the bytes."""
MAX_DESCRIBED = 256
"""How many inputs METADATA describes. It then has up to 32 KiB; clients read up to 64 KiB of a header."""


class Packing(Struct, frozen=True):
    """The form of floats in bytes."""

    embed_dtype: FloatType = "float32"
    endianness: Endianness = "native"

    def pack(self, floats: vectors.Floats) -> NDArray[Any]:
        """The same numbers in this form, contiguous."""
        numbers: NDArray[Any] = floats
        if self.embed_dtype == "bfloat16":
            numbers = vectors.bfloat16(floats)
        elif self.embed_dtype == "float16":
            numbers = vectors.float16(floats)
        return np.ascontiguousarray(numbers, ORDERS[self.endianness] + TYPES[self.embed_dtype])


FLOAT32 = Packing()


class FloatFields(Protocol):
    """Fields of requests that say how floats are written."""

    encoding_format: EncodingFormat | None
    embed_dtype: FloatType | None
    endianness: Endianness | None


def wants_bytes(body: FloatFields) -> bool:
    """Whether the response to a request is no JSON."""
    return body.encoding_format in ("bytes", "bytes_only")


def packing_of(body: FloatFields) -> Packing:
    """The form of floats in bytes that a request names."""
    if body.embed_dtype is None and body.endianness is None:
        return FLOAT32
    return Packing(body.embed_dtype or "float32", body.endianness or "native")


def check_count(body: FloatFields, inputs: int) -> None:
    """Raise InvalidRequest if a request wants so many inputs to be described in a response header."""
    if body.encoding_format == "bytes" and inputs > MAX_DESCRIBED:
        raise InvalidRequest(
            f"encoding_format: the response header of bytes describes up to {MAX_DESCRIBED} inputs, not {inputs};"
            " send fewer, or use bytes_only",
            param="encoding_format",
        )


class PackedItem(Struct):
    """Where an input's floats are in the response."""

    index: int
    embed_dtype: FloatType
    endianness: Endianness
    start: int
    end: int
    shape: tuple[int, ...]


class Metadata(Struct):
    """What describes a response of bytes."""

    id: str
    created: int
    model: str
    data: list[PackedItem]
    usage: Struct


async def packed_response(
    request: Request, body: FloatFields, rows: Callable[[], Sequence[vectors.Floats]], metadata: Metadata, numbers: int
) -> Response:
    """The floats of all inputs, one after the other.

    Args:
        request: its body has been read.
        body: wants bytes.
        rows: returns the floats of each input, of any shape.
        metadata: for the header, without its data.
        numbers: how many numbers the response holds.
    """
    packing = packing_of(body)

    def build() -> tuple[list[bytes], dict[str, str]]:
        found = rows()
        parts = [packing.pack(row).tobytes() for row in found]
        if body.encoding_format == "bytes_only":
            return parts, {}
        end = 0
        for index, (row, part) in enumerate(zip(found, parts, strict=True)):
            start, end = end, end + len(part)
            item = PackedItem(index, packing.embed_dtype, packing.endianness, start, end, row.shape)
            metadata.data.append(item)
        return parts, {METADATA: json.dumps(msgspec.to_builtins(metadata))}  # in ASCII, as headers must be

    return await large_bytes_response(request, build, numbers)
