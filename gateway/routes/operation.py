"""The entries of the table of routes, from which the router, /openapi.json and the metrics' labels are made."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from msgspec import Struct

from gateway.error_body import OPENAI, Dialect
from gateway.routes.http import Endpoint

SHARED = "OpenAI, Jina, Voyage"
"""The OpenAPI tag of operations that several APIs share."""


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
    dialect: Dialect = OPENAI
    tag: str = SHARED
    needs_key: bool = True
    """Whether it requires an API key and is subject to the rate limit and the drain guard."""
    is_documented: bool = True
    media_type: str | None = None
    """Another type of its responses, besides JSON."""

    def also(self, path: str, suffix: str, endpoint: Endpoint | None = None) -> "Operation":
        """The same operation at another path."""
        summary = f"The same as {self.path}"
        return replace(self, path=path, id=self.id + suffix, summary=summary, endpoint=endpoint or self.endpoint)
