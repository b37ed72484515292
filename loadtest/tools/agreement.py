"""Whether servers answer with the same vectors: if not, their speed cannot be compared."""

import urllib.request

import numpy as np
import orjson
from numpy.typing import NDArray

from loadtest.tools.client import BenchmarkError
from loadtest.tools.servers import HOST, Server
from loadtest.tools.workloads import EMBEDDING_MODEL

ALIKE = 0.99
"""The least cosine: bf16 is above 0.999, int8 above 0.99."""


def vectors(server: Server, texts: list[str]) -> NDArray[np.float64]:
    """Unit vectors of texts: [texts, width]."""
    body = orjson.dumps({"model": EMBEDDING_MODEL, "input": texts})
    url = f"http://{HOST}:{server.port}/v1/embeddings"
    request = urllib.request.Request(url, body, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310 - our own server
        data = orjson.loads(answer.read())["data"]
    found = np.array([one["embedding"] for one in sorted(data, key=lambda one: one["index"])])
    unit: NDArray[np.float64] = found / np.linalg.norm(found, axis=1, keepdims=True)
    return unit


def lowest_cosine(name: str, ours: NDArray[np.floating], theirs: NDArray[np.floating]) -> float:
    """The lowest cosine between unit vectors of the same texts.

    Raises:
        BenchmarkError: it is below ALIKE.
    """
    lowest = float((ours * theirs).sum(axis=1).min())
    if not lowest >= ALIKE:
        raise BenchmarkError(f"{name} computes something else than Conch: a cosine of {lowest:.4f}")
    return lowest
