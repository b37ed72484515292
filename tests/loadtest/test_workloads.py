import numpy as np
import orjson
import pytest

from gateway.routes.decoding import decode
from gateway.routes.embeddings import EmbeddingRequest
from gateway.routes.rerank import RerankRequest
from loadtest.tools import workloads
from loadtest.tools.workloads import Workload

ALL = workloads.workloads()


@pytest.mark.parametrize("workload", ALL.values(), ids=list(ALL))
def test_bodies_are_requests_of_so_many_items(workload: Workload) -> None:
    for body in workload.bodies[:50]:
        if workload.path == "/v1/rerank":
            documents = decode(body, RerankRequest)[0].documents
            assert isinstance(documents, list)
            assert len(documents) == workload.items
        else:
            given = decode(body, EmbeddingRequest)[0].input
            assert isinstance(given, list)
            assert len(given) == workload.items


def test_every_run_sends_the_same() -> None:
    assert workloads.workloads() == ALL


def test_no_text_comes_twice() -> None:
    texts = [text for body in ALL["mixed-16"].texts for text in body]
    assert len(set(texts)) > 0.99 * len(texts)


def test_lengths_are_lognormal() -> None:
    words = np.array([len(text.split()) for body in ALL["mixed-16"].texts for text in body])
    assert (words.min(), words.max()) == workloads.MIXED_WORDS
    assert np.median(words) == pytest.approx(workloads.MIXED_MEDIAN, rel=0.1)
    inner = words[(words > 5) & (words < 240)]
    assert np.log(inner).std() == pytest.approx(workloads.MIXED_DEVIATION, rel=0.2)


def test_texts_are_what_bodies_hold() -> None:
    workload = ALL["bulk-64"]
    assert [orjson.loads(body)["input"] for body in workload.bodies] == [list(part) for part in workload.texts]
