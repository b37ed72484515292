"""Reads and validates request bodies."""

import re
from collections.abc import Callable, Mapping
from functools import partial
from itertools import islice
from typing import TypeVar, cast

from msgspec import Struct

from gateway.errors import InvalidRequest, RequestTooLarge, UnsupportedEncoding, quoted
from gateway.routes.decoding import MAX_IGNORED, Ignored, decode, decode_one_of
from gateway.routes.http import SMALL, Request

T = TypeVar("T")

MAX_NAME = 64
"""How many characters of an unknown field's name appear in the response header and the log."""
UNSAFE = re.compile(r"[^A-Za-z0-9_.\[\]-]")
"""Characters of names that could forge headers or log lines."""


async def read(request: Request, body_type: type[T]) -> T:
    """Read and validate a JSON body.

    Raises:
        GatewayError: see `_receive`, `decoding.decode` and `resolve_aliases`.
    """
    return await _parse(request, await _receive(request), partial(decode, body_type=body_type))


async def read_one_of(request: Request, choose: Callable[[object], type[T]]) -> T:
    """Read and validate a JSON body whose type depends on its content. Raises the same errors as `read`.

    Args:
        request: its body has not been read.
        choose: returns the type for the parsed JSON.
    """
    return await _parse(request, await _receive(request), partial(decode_one_of, choose=choose))


def check_encoding(request: Request) -> None:
    """Raise UnsupportedEncoding if the body is compressed."""
    encoding = ", ".join(request.headers.getlist("content-encoding")) or "identity"
    if encoding.lower() != "identity":
        raise UnsupportedEncoding(f"content-encoding {encoding} is not supported; send the body uncompressed")


async def _receive(request: Request) -> bytearray:
    """Receive a body.

    Raises:
        UnsupportedEncoding: the body is compressed.
        RequestTooLarge: the body exceeds the limit. No more than the limit is ever held in memory.
        Overloaded: the bodies of all requests together would exceed the memory limit.
    """
    check_encoding(request)
    gateway, held = request.state["gateway"], request.state["body"]
    limit = gateway.settings.max_body_bytes
    body = bytearray()
    async for chunk in request.stream():
        if len(body) + len(chunk) > limit:
            raise RequestTooLarge(f"the body exceeds {limit} bytes")
        held.grow(len(chunk))
        body += chunk
    return body


async def _parse(request: Request, body: bytearray, decoder: Callable[[bytearray], tuple[T, Ignored]]) -> T:
    state = request.state
    with state["record"].timings.stage("parse"):
        if len(body) <= SMALL:
            parsed, ignored = decoder(body)
        else:
            parsed, ignored = await state["gateway"].json_threads.run(state["account"], partial(decoder, body))
    record_ignored(request, ignored)
    if aliases := getattr(parsed, "aliases", None):
        resolve_aliases(cast(Struct, parsed), aliases)
    return parsed


def record_ignored(request: Request, fields: Ignored) -> None:
    """Record unknown fields for the response header and the log line.

    Raises:
        InvalidRequest: there are unknown fields, and the settings make them an error.
    """
    if not fields:
        return
    if not request.state["gateway"].settings.ignores_unknown_fields:
        place = next(iter(fields.values()))
        raise InvalidRequest(f"unknown field {quoted(place)}", param=place)
    ignored = request.state["record"].ignored_fields
    ignored += [UNSAFE.sub("?", name[:MAX_NAME]) for name in islice(fields, MAX_IGNORED - len(ignored))]


def resolve_aliases(body: Struct, aliases: Mapping[str, str]) -> None:
    """Copy the values of alias fields to the fields that they stand for. Request types list theirs as `aliases`.

    Args:
        body: its fields are None if they were not sent.
        aliases: alias to field.

    Raises:
        InvalidRequest: both an alias and its field were sent.
    """
    for alias, name in aliases.items():
        value = getattr(body, alias)
        if value is None:
            continue
        if getattr(body, name) is not None:
            raise InvalidRequest(f"{name} and {alias} have the same meaning; send only one of them", param=alias)
        setattr(body, name, value)
