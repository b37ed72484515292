import pytest
from langchain_xinference import XinferenceEmbeddings

from tests.compat.calls import MANY
from tests.compat.plain import MODEL, TEXTS, Plain, assert_same

pytestmark = pytest.mark.client("langchain-xinference", '`server_url="URL"`')


@pytest.mark.call("`XinferenceEmbeddings.embed_documents`, `embed_query`")
def test_embeddings(url: str, plain: Plain) -> None:
    embeddings = XinferenceEmbeddings(server_url=url, model_uid=MODEL)
    assert_same(embeddings.embed_documents(MANY), plain.embed(MANY))
    assert_same([embeddings.embed_query(TEXTS[0])], plain.embed(TEXTS[0]))
