from collections.abc import Callable, Iterator
from typing import Any

import pytest
from qdrant_client import QdrantClient
from qdrant_client.models import (
    Distance,
    MultiVectorComparator,
    MultiVectorConfig,
    PointStruct,
    SparseVector,
    SparseVectorParams,
    VectorParams,
)

from tests.compat.plain import QUERY, TEXTS, Kinds, Plain, assert_found

pytestmark = pytest.mark.client("qdrant-client", "none: it stores what `/v1/embeddings` returns")

NAME = "compat"
Search = Callable[[str, Any], list[tuple[int, float]]]


def sparse(one: Kinds) -> SparseVector:
    return SparseVector(indices=[*one.indices], values=[*one.values])


@pytest.fixture(scope="module")
def search(plain: Plain) -> Iterator[Search]:
    """Searches the texts by one of their vectors, in Qdrant's engine of this process."""
    documents = plain.kinds(TEXTS)
    size = {"size": len(documents[0].dense), "distance": Distance.COSINE}
    tokens = {"size": documents[0].tokens.shape[1], "distance": Distance.COSINE}
    most_similar = MultiVectorConfig(comparator=MultiVectorComparator.MAX_SIM)
    client = QdrantClient(":memory:")
    client.create_collection(
        NAME,
        vectors_config={
            "dense": VectorParams(**size),
            "tokens": VectorParams(**tokens, multivector_config=most_similar),
        },
        sparse_vectors_config={"sparse": SparseVectorParams()},
    )
    vectors = [{"dense": one.dense.tolist(), "sparse": sparse(one), "tokens": one.tokens.tolist()} for one in documents]
    client.upsert(NAME, [PointStruct(id=i, vector=vector) for i, vector in enumerate(vectors)])

    def found(using: str, query: Any) -> list[tuple[int, float]]:
        return [(int(one.id), one.score) for one in client.query_points(NAME, query=query, using=using).points]

    yield found
    client.close()


@pytest.mark.call("dense vectors: `upsert`, `query_points`")
def test_dense(plain: Plain, search: Search) -> None:
    (query,) = plain.kinds([QUERY], "query")
    assert_found(search("dense", query.dense.tolist()), [query.dense_score(one) for one in plain.kinds(TEXTS)])


@pytest.mark.call("`sparse` as `SparseVector`")
def test_sparse(plain: Plain, search: Search) -> None:
    (query,) = plain.kinds([QUERY], "query")
    assert_found(search("sparse", sparse(query)), [query.sparse_score(one) for one in plain.kinds(TEXTS)])


@pytest.mark.call("`multi_vector` with `MultiVectorComparator.MAX_SIM`")
def test_multi_vector(plain: Plain, search: Search) -> None:
    (query,) = plain.kinds([QUERY], "query")
    assert_found(search("tokens", query.tokens.tolist()), [query.token_score(one) for one in plain.kinds(TEXTS)], 1e-3)
