"""What a test needs, by the code that it and its fixtures reach: Triton, or models that are exported first."""

import inspect
from collections.abc import Iterator
from types import CodeType, FunctionType, ModuleType

import pytest

from loadtest.tools.servers import EMBEDDED, PORTS

MARKERS = {
    "triton": "starts Triton, or asks for models of the repository",
    "slow": "exports models, or waits for seconds",
}
"""Some tests that wait for seconds say so themselves."""
EXPORTS = {
    "export.pipeline",
    "export.repository",
    "export.sources.isolation",
    "pictogram.train",
    "tests.export.machine",
    "loadtest.tools.tiny",
}
"""Modules that write, export or train models, or start processes that do: seconds for each, by measurement."""
BY_PROCESSES = ("tests.export.", "tests.generations.")
"""Where processes that tests start are exports."""
OURS = ("tests.", "loadtest.")
"""Modules whose functions are followed."""


def mark(item: pytest.Function) -> None:
    """Mark a test `triton` or `slow` if it is."""
    fixtures = item._fixtureinfo.name2fixturedefs
    functions = [item.function, *(each.func for every in fixtures.values() for each in every)]
    seen: set[FunctionType] = set()
    reached = [value for function in functions for value in reach(inspect.unwrap(function), seen)]
    if "repository" in item.fixturenames or any(value is EMBEDDED or value is PORTS for value in reached):
        item.add_marker("triton")
    names = {getattr(value, name, "") for value in reached for name in ("__module__", "__name__")}
    if names & EXPORTS or ("subprocess" in names and item.module.__name__.startswith(BY_PROCESSES)):
        item.add_marker("slow")


def reach(function: object, seen: set[FunctionType]) -> Iterator[object]:
    """What a function names of its module's values, and of the modules among them; and so on in our own functions."""
    if not isinstance(function, FunctionType) or function in seen:
        return
    seen.add(function)
    names = set(names_in(function.__code__))
    values = [function.__globals__[name] for name in names if name in function.__globals__]
    for module in [value for value in values if isinstance(value, ModuleType) and value.__name__.startswith(OURS)]:
        values += [getattr(module, name) for name in names if hasattr(module, name)]
    for value in values:
        yield value
        if getattr(value, "__module__", "").startswith(OURS):
            yield from reach(inspect.unwrap(value) if callable(value) else value, seen)


def names_in(code: CodeType) -> Iterator[str]:
    """Of a function's code, and of what is defined in it."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from names_in(constant)
