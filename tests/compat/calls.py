"""Tables of calls: clients that embed or rank as plain requests do, a row of docs/clients.md each."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import pytest

from tests.compat.plain import QUERY, TEXTS, Plain, Vectors, assert_ranked, assert_same

Function = TypeVar("Function")
Embed = Callable[[str, list[str]], Vectors]
"""From the server's URL and texts to their vectors."""
Rank = Callable[[str, str, list[str]], Sequence[tuple[int, float]]]
"""From the server's URL, a query and documents to the documents' indices and scores, best first."""
MANY = [f"text {i}" for i in range(100)]


@dataclass(frozen=True)
class Call(Generic[Function]):
    """How a client is set up, and what is called."""

    client: str
    """The name of its distribution."""
    setting: str
    call: str
    function: Function
    fields: Mapping[str, Any] = field(default_factory=dict)
    """What a plain request sends for the same result."""


def parameters(calls: Sequence[Call[Function]]) -> list[Any]:
    """One parameter for each call, with its own row of the table."""
    return [
        pytest.param(
            one,
            marks=[pytest.mark.client(one.client, one.setting), pytest.mark.call(one.call)],
            id=f"{one.client}-{i}",
        )
        for i, one in enumerate(calls)
    ]


def assert_embeds(call: Call[Embed], url: str, plain: Plain) -> None:
    """Few texts and many have the vectors of a plain request."""
    for texts in (TEXTS, MANY):
        assert_same(call.function(url, texts), plain.embed(texts, **call.fields))


def assert_ranks(call: Call[Rank], url: str, plain: Plain) -> None:
    """The documents are in the order of a plain request, with its scores."""
    assert_ranked(call.function(url, QUERY, TEXTS), plain.rank(**call.fields))
