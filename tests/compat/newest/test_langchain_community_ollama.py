import pytest
from langchain_community.embeddings import OllamaEmbeddings

from tests.compat.plain import LONG, MODEL, TEXTS, Plain, assert_same

pytestmark = [
    pytest.mark.client("langchain-community", '`OllamaEmbeddings(base_url="URL")`'),
    pytest.mark.filterwarnings("ignore:The class `OllamaEmbeddings` was deprecated"),
]


@pytest.mark.call("`embed_documents`, `embed_query`, long texts truncated")
def test_texts(url: str, plain: Plain) -> None:
    embeddings = OllamaEmbeddings(model=MODEL, base_url=url, embed_instruction="", query_instruction="")
    assert_same(embeddings.embed_documents(TEXTS), plain.embed(TEXTS))
    assert_same([embeddings.embed_query(LONG)], plain.embed([LONG], truncate=True))


@pytest.mark.call("errors: `ValueError` with our message")
def test_errors(url: str) -> None:
    with pytest.raises(ValueError, match="there is no model 'llama3'"):
        OllamaEmbeddings(model="llama3", base_url=url).embed_query("a")
