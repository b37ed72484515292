from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from tests.serving import gateway_client


@pytest.fixture(scope="package")
def locked(repository: Path) -> Iterator[httpx2.Client]:
    """A gateway with keys; whether Triton is there does not matter."""
    with gateway_client(repository, GATEWAY_API_KEYS="right,other,clé") as client:
        yield client
