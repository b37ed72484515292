"""A real Triton and gateway, started once from the repository's own entries."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path

# The models of most tests are tiny, and `make check` keeps all cores busy: each operator of torch would wait longer for
# its second thread than it computes. Processes that tests start inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import httpx2
import pytest
from tokenizers import Tokenizer

from export.entry import is_built
from export.manifest import ModelSpec, load
from export.repository import build
from export.sources.resolve import resolve
from tests import needs
from tests.odd_models import write_odd_repository
from tests.serving import REPOSITORY, Server, serve


class _Deaf(logging.Logger):
    """A logger that takes no handlers."""

    def addHandler(self, hdlr: logging.Handler) -> None:  # noqa: N802 - the library's name
        pass


# torch.export traces itself for whoever listens. pytest listens even to loggers that do not propagate, and would keep
# hundreds of megabytes.
logging.setLoggerClass(_Deaf)
logging.getLogger("torch.__trace")
logging.setLoggerClass(logging.Logger)


def pytest_configure(config: pytest.Config) -> None:
    """Here, because `make images` and `make compose` have settings of their own."""
    for name, meaning in needs.MARKERS.items():
        config.addinivalue_line("markers", f"{name}: {meaning}")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if isinstance(item, pytest.Function):
            needs.mark(item)


@pytest.fixture(scope="session")
def repository() -> Path:
    """The repository with the default models, built first where they are not."""
    for spec in load().values():
        if not is_built(spec, REPOSITORY):
            build(spec, REPOSITORY, progress=print)
    return REPOSITORY


@pytest.fixture(scope="session")
def entries(minilm_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with the default embedding model's tokenizer alone, for tests of the gateway without Triton."""
    folder = tmp_path_factory.mktemp("entries")
    tokenizer = Tokenizer.from_file(str(minilm_folder / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    entry = folder / "all-minilm-l6-v2"
    entry.mkdir()
    tokenizer.save(str(entry / "tokenizer.json"))
    return folder


@pytest.fixture(scope="session")
def server(repository: Path) -> Iterator[Server]:
    """The default models behind a gateway."""
    with serve(repository, GATEWAY_REQUEST_TIMEOUT="100") as running:  # some tests send what takes a slow machine that
        yield running


@pytest.fixture(scope="session")
def client(server: Server) -> Iterator[httpx2.Client]:
    """An HTTP client of `server`."""
    with httpx2.Client(base_url=server.url, timeout=110) as client:
        yield client


@pytest.fixture(scope="session")
def odd_server(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A Triton with the models of `tests.odd_models`, and a gateway."""
    odd = write_odd_repository(repository, tmp_path_factory.mktemp("odd"))
    limits = {"GATEWAY_REQUEST_TIMEOUT": "2", "GATEWAY_MAX_RESPONSES_BYTES": str(2**23)}
    with serve(odd, **limits) as running:
        yield running


@pytest.fixture(scope="session")
def odd_client(odd_server: Server) -> Iterator[httpx2.Client]:
    """An HTTP client of that gateway."""
    with httpx2.Client(base_url=odd_server.url, timeout=60) as client:
        yield client


@pytest.fixture(scope="session")
def minilm() -> ModelSpec:
    """The manifest's table of the default embedding model."""
    return load()["all-minilm-l6-v2"]


@pytest.fixture(scope="session")
def minilm_folder(minilm: ModelSpec) -> Path:
    """The folder of its weights."""
    return resolve(minilm).folder
