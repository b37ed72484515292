import asyncio

import pytest
from lightrag.rerank import ali_rerank

from tests.compat.plain import QUERY, RERANKER, TEXTS, Plain, assert_ranked

pytestmark = pytest.mark.client(
    "lightrag-hku", '`base_url="URL/api/v1/services/rerank/text-rerank/text-rerank"` of `ali_rerank`'
)


@pytest.mark.call("`ali_rerank`, top_n")
def test_ranking(url: str, plain: Plain) -> None:
    address = f"{url}/api/v1/services/rerank/text-rerank/text-rerank"
    for top_n in (None, 2):
        ranks = asyncio.run(ali_rerank(QUERY, TEXTS, top_n, api_key="unused", model=RERANKER, base_url=address))
        assert_ranked([(one["index"], one["relevance_score"]) for one in ranks], plain.rank()[:top_n])
