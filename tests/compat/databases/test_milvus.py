from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pymilvus import DataType, MilvusClient

from tests.compat.plain import QUERY, TEXTS, Plain, assert_found

pytestmark = pytest.mark.client("pymilvus", "none: Milvus Lite stores what `/v1/embeddings` returns")

NAME = "compat"
Search = Callable[[str, Any, str], list[tuple[int, float]]]


@pytest.fixture(scope="module")
def search(plain: Plain, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Search]:
    """Searches the texts by one of their vectors, in Milvus Lite."""
    documents = plain.kinds(TEXTS)
    file: Path = tmp_path_factory.mktemp("milvus") / "compat.db"
    client = MilvusClient(str(file))
    schema = client.create_schema()
    schema.add_field("id", DataType.INT64, is_primary=True)
    schema.add_field("dense", DataType.FLOAT_VECTOR, dim=len(documents[0].dense))
    schema.add_field("sparse", DataType.SPARSE_FLOAT_VECTOR)
    indices = client.prepare_index_params()
    indices.add_index("dense", index_type="FLAT", metric_type="COSINE")
    indices.add_index("sparse", index_type="SPARSE_INVERTED_INDEX", metric_type="IP")
    client.create_collection(NAME, schema=schema, index_params=indices)
    rows = [{"id": i, "dense": one.dense.tolist(), "sparse": one.terms} for i, one in enumerate(documents)]
    client.insert(NAME, rows)

    def found(field: str, query: Any, metric: str) -> list[tuple[int, float]]:
        (hits,) = client.search(NAME, [query], anns_field=field, limit=3, search_params={"metric_type": metric})
        return [(hit["id"], hit["distance"]) for hit in hits]

    yield found
    client.close()


@pytest.mark.call("dense vectors: `insert`, `search`")
def test_dense(plain: Plain, search: Search) -> None:
    (query,) = plain.kinds([QUERY], "query")
    expected = [query.dense_score(one) for one in plain.kinds(TEXTS)]
    assert_found(search("dense", query.dense.tolist(), "COSINE"), expected)


@pytest.mark.call("`sparse` as a dictionary, in a `SPARSE_FLOAT_VECTOR`")
def test_sparse(plain: Plain, search: Search) -> None:
    (query,) = plain.kinds([QUERY], "query")
    expected = [query.sparse_score(one) for one in plain.kinds(TEXTS)]
    assert_found(search("sparse", query.terms, "IP"), expected)
