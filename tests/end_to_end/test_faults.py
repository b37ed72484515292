"""Faults of docs/reliability.md, those that take seconds, by the same means: nothing is lost, nothing is wrong."""

import asyncio
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from loadtest.experiments.faults import faults, replicas
from loadtest.tools.servers import HOST, Server, conch
from loadtest.tools.steady import Case, Known, known

MODEL = "all-minilm-l6-v2"


@pytest.fixture(scope="module")
def entries(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository of the default embedding model alone, which may be changed."""
    copy = tmp_path_factory.mktemp("entries")
    shutil.copytree(repository / MODEL, copy / MODEL)
    return copy


@pytest.fixture(scope="module")
def first(entries: Path) -> Iterator[Server]:
    """A server."""
    with conch(entries, entries.with_name("first.log"), GATEWAY_REQUEST_TIMEOUT="5") as server:
        yield server


@pytest.fixture(scope="module")
def what(first: Server) -> Known:
    """Texts and their vectors."""
    return asyncio.run(known(f"http://{HOST}:{first.port}"))


def check(cases: Sequence[Case]) -> Case:
    """The one case, in which every request had the right answer or an honest one."""
    (case,) = cases
    assert case.requests == case.correct + case.refused
    assert case.correct > 0
    return case


def test_dead_process_of_a_model_is_noticed_and_replaced(first: Server, entries: Path, what: Known) -> None:
    case = check(asyncio.run(faults(first, entries, what, ["model's process killed"])))
    assert case.noticed_s > 0
    assert case.recovery_s > case.noticed_s


def test_new_version_of_a_model_costs_no_request(first: Server, entries: Path, what: Known) -> None:
    assert check(asyncio.run(faults(first, entries, what, ["new version of the model"]))).refused == 0


@pytest.mark.parametrize("name", ["model returns NaN for 3 s", "model returns half a vector for 3 s"])
def test_answers_that_are_none_are_no_vectors(first: Server, entries: Path, what: Known, name: str) -> None:
    assert check(asyncio.run(faults(first, entries, what, [name]))).refused > 0


def test_killed_replica_costs_no_request(first: Server, entries: Path, what: Known) -> None:
    with conch(entries, entries.with_name("second.log")) as second:
        log = entries.with_name("gateway.log")
        case = check(asyncio.run(replicas(first, second, what, log, ["one of two replicas killed"])))
    assert case.refused == 0
