import pytest
from llama_index.core.schema import NodeWithScore, TextNode
from llama_index.postprocessor.siliconflow_rerank import SiliconFlowRerank

from tests.compat.plain import QUERY, RERANKER, TEXTS, Plain, assert_ranked

pytestmark = pytest.mark.client("llama-index-postprocessor-siliconflow-rerank", '`base_url="URL/v1/rerank"`')
NODES = [NodeWithScore(node=TextNode(text=text, id_=str(i))) for i, text in enumerate(TEXTS)]


@pytest.mark.call("`SiliconFlowRerank.postprocess_nodes`")
def test_ranking(url: str, plain: Plain) -> None:
    reranker = SiliconFlowRerank(model=RERANKER, base_url=f"{url}/v1/rerank", api_key="unused", top_n=2)
    best = reranker.postprocess_nodes(NODES, query_str=QUERY)
    assert_ranked([(int(node.node_id), node.score) for node in best], plain.rank()[:2])


@pytest.mark.call("errors: `RuntimeError` with our message")
def test_errors(url: str) -> None:
    reranker = SiliconFlowRerank(model="x", base_url=f"{url}/v1/rerank", api_key="unused")
    with pytest.raises(RuntimeError, match="there is no model 'x'"):
        reranker.postprocess_nodes(NODES, query_str=QUERY)
