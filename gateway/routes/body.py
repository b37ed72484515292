"""Reading the body of a request."""

import re
from collections.abc import Callable, Mapping
from functools import partial
from itertools import islice
from typing import TypeVar

from msgspec import Struct

from gateway.errors import InvalidRequest, RequestTooLarge, UnsupportedEncoding, quoted
from gateway.routes.decoding import MAX_IGNORED, Ignored, decode, decode_one_of
from gateway.routes.http import SMALL, Request

T = TypeVar("T")

MAX_NAME = 64
"""Characters of an unknown field in headers and the log."""
UNSAFE = re.compile(r"[^A-Za-z0-9_.\[\]-]")
"""Characters that could forge headers or log lines."""


async def read(request: Request, body_type: type[T]) -> T:
    """Read and validate a JSON body.

    Raises:
        GatewayError: InvalidRequest, RequestTooLarge, UnsupportedEncoding or Overloaded; see `_receive` and `decode`.
    """
    return await _parse(request, await _receive(request), partial(decode, body_type=body_type))


async def read_one_of(request: Request, choose: Callable[[object], type[T]]) -> T:
    """Read and validate a JSON body whose type depends on its content. Raises what `read` does.

    Args:
        request: whose body has not been read.
        choose: gives the type for the parsed JSON.
    """
    return await _parse(request, await _receive(request), partial(decode_one_of, choose=choose))


async def _receive(request: Request) -> bytearray:
    """Read a body.

    Raises:
        UnsupportedEncoding: it is compressed.
        RequestTooLarge: it is over the limit, more than which is never held, or has more values than any request.
        Overloaded: there is no room for it beside the bodies of others.
    """
    encoding = ", ".join(request.headers.getlist("content-encoding")) or "identity"
    if encoding.lower() != "identity":
        raise UnsupportedEncoding(f"content-encoding is {encoding}; send the body as it is")
    gateway, held = request.state["gateway"], request.state["body"]
    limit = gateway.settings.max_body_bytes
    body = bytearray()
    async for chunk in request.stream():
        if len(body) + len(chunk) > limit:
            raise RequestTooLarge(f"the body is over {limit} bytes")
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
    ignore(request, ignored)
    return parsed


def ignore(request: Request, fields: Ignored) -> None:
    """Note fields that are unknown, for the answer's header and the line in the log.

    Raises:
        InvalidRequest: there is one, and the settings say that it is an error.
    """
    if not fields:
        return
    if not request.state["gateway"].settings.ignores_unknown_fields:
        place = next(iter(fields.values()))
        raise InvalidRequest(f"unknown field {quoted(place)}", param=place)
    noted = request.state["record"].ignored_fields
    noted += [UNSAFE.sub("?", name[:MAX_NAME]) for name in islice(fields, MAX_IGNORED - len(noted))]


def rename(body: Struct, names: Mapping[str, str]) -> None:
    """Move what came in fields by other names into those that are read.

    Args:
        body: whose fields are None where nothing came.
        names: read ones, by the others.

    Raises:
        InvalidRequest: both came.
    """
    for other, name in names.items():
        given = getattr(body, other)
        if given is not None and getattr(body, name) is not None:
            raise InvalidRequest(f"{name} and {other} say the same; send one of them", param=other)
        if given is not None:
            setattr(body, name, given)
