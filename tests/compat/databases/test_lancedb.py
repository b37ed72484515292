from pathlib import Path

import lancedb
import pyarrow as pa
import pytest

from tests.compat.plain import QUERY, TEXTS, Plain, assert_found

pytestmark = pytest.mark.client("lancedb", "none: it stores what `/v1/embeddings` returns")


@pytest.mark.call("dense vectors: `create_table`, `search`")
def test_dense(plain: Plain, tmp_path: Path) -> None:
    documents = plain.kinds(TEXTS)
    rows = [{"id": i, "vector": one.dense.tolist()} for i, one in enumerate(documents)]
    table = lancedb.connect(tmp_path).create_table("compat", rows)
    (query,) = plain.kinds([QUERY], "query")
    hits = table.search(query.dense.tolist()).distance_type("cosine").to_list()
    found = [(hit["id"], 1 - hit["_distance"]) for hit in hits]
    assert_found(found, [query.dense_score(one) for one in documents])


@pytest.mark.call("`multi_vector` in a column of lists of vectors")
def test_multi_vector(plain: Plain, tmp_path: Path) -> None:
    documents = plain.kinds(TEXTS)
    column = pa.list_(pa.list_(pa.float32(), documents[0].tokens.shape[1]))
    rows = [{"id": i, "tokens": one.tokens.tolist()} for i, one in enumerate(documents)]
    schema = pa.schema([("id", pa.int64()), ("tokens", column)])
    table = lancedb.connect(tmp_path).create_table("compat", rows, schema=schema)
    (query,) = plain.kinds([QUERY], "query")
    hits = table.search(query.tokens.tolist(), vector_column_name="tokens").distance_type("cosine").to_list()
    scores = [query.token_score(one) for one in documents]
    assert [hit["id"] for hit in hits] == sorted(range(3), key=lambda i: -scores[i])
