"""The entries of the table of dialects: what the router, /openapi.json and the documentation are made from."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from msgspec import Struct

from gateway.error_body import OPENAI, ErrorFormat
from gateway.routes.http import Endpoint


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one path."""

    method: str
    """In lower case, as in OpenAPI."""
    path: str
    """A parameter such as "{id}" matches any text, including slashes."""
    id: str
    summary: str
    endpoint: Endpoint
    response: Any = None
    """The type of the response."""
    request: type[Struct] | None = None
    """The type of the request's body."""
    example: Mapping[str, object] | None = None
    """A request that works with the default models. (/classify and /predict need a classifier, and /embed_sparse a
    sparse model, which are not among them.)"""
    needs_key: bool = True
    """Whether it requires an API key and is subject to the rate limit and the drain guard."""
    is_documented: bool = True
    query: type[Struct] | None = None
    """The type of the query's parameters."""
    takes: str = "application/json"
    """The media type of the request's body."""
    gives: str = "application/json"
    """The media type of the response."""
    deadline_s: float | None = None
    """How long a POST request may take, if not as long as the settings say."""
    also_gives: str | None = None
    """The media type of other responses."""

    def also(self, path: str, suffix: str, endpoint: Endpoint | None = None) -> "Operation":
        """The same operation at another path."""
        summary = f"The same as {self.path}"
        return replace(self, path=path, id=self.id + suffix, summary=summary, endpoint=endpoint or self.endpoint)


@dataclass(frozen=True, slots=True)
class Dialect:
    """The API of a server, or of several that have one in common, as their clients speak it.

    Its request types say which fields have two names (`aliases`) and which are not supported, and why (`refused`).
    """

    name: str
    operations: tuple[Operation, ...]
    error_format: ErrorFormat = OPENAI
    prefixes: tuple[str, ...] = ()
    """Below these paths, it also answers unknown paths and methods, for which a key is required as well."""
    shared: tuple[str, ...] = ()
    """Paths of other dialects that its clients use as they are."""
