"""An entry of the table of routes, from which the router, /openapi.json and the metrics' labels are made."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from msgspec import Struct

from gateway.error_body import OPENAI, Dialect
from gateway.routes.http import Endpoint

SHARED = "OpenAI, Jina, Voyage"
"""The tag of operations that several APIs share."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one path."""

    method: str
    """In lower case, as OpenAPI has it."""
    path: str
    """A parameter such as "{id}" stands for any text, slashes included."""
    id: str
    summary: str
    endpoint: Endpoint
    response: Any = None
    """A type."""
    request: type[Struct] | None = None
    example: Mapping[str, object] | None = None
    """A request that the default models answer. (/predict takes a cross-encoder, and none is exported by default.)"""
    dialect: Dialect = OPENAI
    tag: str = SHARED
    needs_key: bool = True
    """Whether it is guarded: by the keys, the rate limit and the drain guard."""
    is_documented: bool = True

    def also(self, path: str, suffix: str, endpoint: Endpoint | None = None) -> "Operation":
        """The same operation at another path."""
        summary = f"The same as {self.path}"
        return replace(self, path=path, id=self.id + suffix, summary=summary, endpoint=endpoint or self.endpoint)
