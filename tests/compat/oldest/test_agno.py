import asyncio
from urllib.parse import urlsplit

import pytest
from agno.knowledge.document import Document
from agno.knowledge.reranker.infinity import InfinityReranker

from tests.compat.plain import QUERY, RERANKER, TEXTS, Plain, assert_ranked

pytestmark = pytest.mark.client("agno", "`host`, `port` of the server")


@pytest.mark.call("`InfinityReranker.rerank`, `arerank`")
def test_ranking(url: str, plain: Plain) -> None:
    reranker = InfinityReranker(host=urlsplit(url).hostname, port=urlsplit(url).port, model=RERANKER, top_n=2)
    documents = [Document(content=text, id=str(i)) for i, text in enumerate(TEXTS)]
    for best in (reranker.rerank(QUERY, documents), asyncio.run(reranker.arerank(QUERY, documents))):
        assert_ranked([(int(one.id), one.reranking_score) for one in best], plain.rank()[:2])
        reranker._client = None  # it closes its client after each call, and would use it again
