import chromadb
import pytest
from chromadb.utils.embedding_functions import HuggingFaceEmbeddingServer, OpenAIEmbeddingFunction
from openai import NotFoundError

from tests.compat.plain import MODEL, PROMPTED, QUERY, TEXTS, Plain, assert_same

pytestmark = pytest.mark.client("chromadb", "see each call")


def vectors(found: list[object]) -> list[list[float]]:
    return [list(map(float, vector)) for vector in found]  # type: ignore[call-overload]


@pytest.mark.call('`OpenAIEmbeddingFunction(api_base="URL/v1")`; `dimensions` needs a name of "text-embedding-3"')
def test_openai(url: str, plain: Plain) -> None:
    function = OpenAIEmbeddingFunction(api_key="unused", model_name=MODEL, api_base=f"{url}/v1")
    assert_same(vectors(function(TEXTS)), plain.embed(TEXTS))
    named = {"model_name": "text-embedding-3-large", "dimensions": 64}
    small = OpenAIEmbeddingFunction(api_key="unused", api_base=f"{url}/v1", **named)
    assert_same(vectors(small(TEXTS)), plain.embed(TEXTS, model=PROMPTED, dimensions=64))


@pytest.mark.call("a collection with it: `add`, `query`")
def test_collection(url: str) -> None:
    function = OpenAIEmbeddingFunction(api_key="unused", model_name=MODEL, api_base=f"{url}/v1")
    collection = chromadb.EphemeralClient().create_collection("compat", embedding_function=function)
    collection.add(ids=["snail", "brass", "trumpet"], documents=TEXTS)
    assert collection.query(query_texts=[QUERY], n_results=1)["ids"] == [["trumpet"]]


@pytest.mark.call('`HuggingFaceEmbeddingServer(url="URL/embed")`')
def test_tei(url: str, plain: Plain) -> None:
    assert_same(vectors(HuggingFaceEmbeddingServer(url=f"{url}/embed")(TEXTS)), plain.embed(TEXTS))


@pytest.mark.call("errors, as in `openai`")
def test_errors(url: str) -> None:
    with pytest.raises(NotFoundError, match="there is no model 'x'"):
        OpenAIEmbeddingFunction(api_key="unused", model_name="x", api_base=f"{url}/v1")(["a"])
