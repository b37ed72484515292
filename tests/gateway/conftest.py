from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from tests.serving import start


@pytest.fixture(scope="package")
def locked(repository: Path) -> Iterator[httpx2.Client]:
    """A gateway with keys; whether Triton is there does not matter."""
    with start(repository, GATEWAY_API_KEYS="right,other,clé") as running:
        running.wait_for("Uvicorn running")
        with httpx2.Client(base_url=running.url) as client:
            yield client
