import pytest
from llama_index.core.schema import NodeWithScore, TextNode
from llama_index.postprocessor.jinaai_rerank import JinaRerank

from tests.compat.plain import QUERY, RERANKER, TEXTS, Plain, assert_ranked

pytestmark = pytest.mark.client("llama-index-postprocessor-jinaai-rerank", '`base_url="URL/v1"`')
NODES = [NodeWithScore(node=TextNode(text=text, id_=str(i))) for i, text in enumerate(TEXTS)]


@pytest.mark.call("`JinaRerank.postprocess_nodes`")
def test_ranking(url: str, plain: Plain) -> None:
    reranker = JinaRerank(model=RERANKER, base_url=f"{url}/v1", api_key="unused", top_n=2)
    best = reranker.postprocess_nodes(NODES, query_str=QUERY)
    assert_ranked([(int(node.node_id), node.score) for node in best], plain.rank()[:2])


@pytest.mark.call("errors: `RuntimeError` with our message")
def test_errors(url: str) -> None:
    with pytest.raises(RuntimeError, match="there is no model 'jina-reranker-v1-base-en'"):
        JinaRerank(base_url=f"{url}/v1", api_key="unused").postprocess_nodes(NODES, query_str=QUERY)
