"""A row of the table for each call, told to `loadtest.experiments.compat`; and what the server itself answers."""

import json
import os
from collections.abc import Generator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from tests.compat.plain import Plain

ROWS: dict[tuple[str, ...], dict[str, Any]] = {}


@pytest.fixture(scope="session")
def plain() -> Plain:
    """Plain POSTs to the server."""
    return Plain(os.environ["COMPAT_URL"])


@pytest.fixture(scope="session")
def url() -> str:
    """The server, open to all."""
    return os.environ["COMPAT_URL"]


@pytest.fixture(scope="session")
def guarded_url() -> str:
    """The same models, for those who have a key from "compat-0" to "compat-9", 10 requests a minute each."""
    return os.environ["COMPAT_GUARDED_URL"]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    client, call = item.get_closest_marker("client"), item.get_closest_marker("call")
    assert client is not None, "the module says of which client it is"
    assert call is not None, "the test says what it calls"
    name, setting = client.args
    of = client.kwargs.get("version") or version(name)
    row = ROWS.setdefault(
        (name, of, setting, *call.args),
        {"client": name, "version": of, "setting": setting, "call": call.args[0], "passed": True},
    )
    row["passed"] &= report.passed
    return report


def pytest_sessionfinish() -> None:
    if file := os.environ.get("COMPAT_ROWS"):
        Path(file).write_text(json.dumps(list(ROWS.values())))
